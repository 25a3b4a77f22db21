"""The largest batch that fits, from as few compilations as possible: a step's memory nearly grows with its batch."""

import math
from collections.abc import Callable

from gcvit_flax.planning.compiled_step import CompiledStep

_ROUND = 8  # Images a device; other numbers leave rows of a TPU's registers empty.
_TARGET, _ENOUGH = 0.97, 0.9  # Shares of the memory to aim at, and to be content with.
_ATTEMPTS = 2


def largest_batch(
    compile_step: Callable[[int], CompiledStep], first: CompiledStep, fixed: int, devices: int, unit: int, memory: float
) -> CompiledStep | None:
    """The largest step found that fits into `memory` bytes a device, which it was compiled for; None if none does.

    `first` is compiled already, `fixed` are the bytes that do not depend on the batch, and each of `devices` takes a
    multiple of `unit` images.
    """
    steps = [first]
    for _ in range(_ATTEMPTS):
        fitting = [step for step in steps if step.needed <= memory]
        best = max(fitting, key=lambda step: step.batch_size, default=None)
        too_large = min((step.batch_size for step in steps if step.needed > memory), default=math.inf)
        guess = _predict(steps, fixed, devices, unit, memory)
        if (best and (best.needed >= _ENOUGH * memory or guess <= best.batch_size)) or not 0 < guess < too_large:
            break
        steps.append(compile_step(guess))
    return max((step for step in steps if step.needed <= memory), key=lambda step: step.batch_size, default=None)


def _predict(steps: list[CompiledStep], fixed: int, devices: int, unit: int, memory: float) -> int:
    """The batch that should take `_TARGET` of the memory, by the line through the last two steps; 0 if none does."""
    last = steps[-1]
    if len(steps) > 1:
        before = steps[-2]
        slope = (last.needed - before.needed) / (last.batch_size - before.batch_size)
    else:
        slope = (last.needed - fixed) / last.batch_size
    if slope <= 0:
        return 0
    share = (last.batch_size + (_TARGET * memory - last.needed) / slope) / devices
    rounded = math.lcm(unit, _ROUND)
    return devices * int(share // rounded * rounded or share // unit * unit)
