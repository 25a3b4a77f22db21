"""The largest batch that fits, from as few compilations as possible: a step's memory nearly grows with its batch."""

import dataclasses
import math
from collections.abc import Callable

from gcvit_flax.planning.compiled_step import CompiledStep

_ROUND = 8  # Images a device; other numbers leave rows of a TPU's registers empty.
_TARGET, _ENOUGH = 0.95, 0.9  # Shares of the memory to aim at, and to be content with.
_ATTEMPTS = 2


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a batch must keep to: each of `devices` takes a multiple of `unit` images and `memory` bytes at most.

    No batch is larger than the data, of `examples` images if that is known.
    """

    devices: int
    unit: int
    memory: float
    examples: int | None = None

    def rounded(self, batch_size: float) -> int:
        """The next batch below, preferably with a multiple of `_ROUND` images a device; 0 if there is none."""
        share = max(0.0, min(batch_size, self.examples or math.inf)) / self.devices
        rounded = math.lcm(self.unit, _ROUND)
        return self.devices * int(share // rounded * rounded or share // self.unit * self.unit)


def largest_batch(
    compile_step: Callable[[int], CompiledStep], first: CompiledStep, limits: Limits, fixed: int
) -> CompiledStep | None:
    """The largest step found that fits, and was compiled; None if none does.

    `first` is compiled already, and `fixed` are the bytes that do not depend on the batch.
    """
    steps = [first]
    for _ in range(_ATTEMPTS):
        best = _best(steps, limits.memory)
        guess = limits.rounded(_predict(steps, fixed, limits.memory))
        if not guess or (best and (best.needed >= _ENOUGH * limits.memory or guess <= best.batch_size)):
            break
        steps.append(compile_step(guess))
    return _best(steps, limits.memory)


def _best(steps: list[CompiledStep], memory: float) -> CompiledStep | None:
    return max((step for step in steps if step.needed <= memory), key=lambda step: step.batch_size, default=None)


def _predict(steps: list[CompiledStep], fixed: int, memory: float) -> float:
    """The batch that should take `_TARGET` of the memory, by the line through the last two steps."""
    last, before = steps[-1], steps[-2] if len(steps) > 1 else CompiledStep(0, 0.0, fixed)
    slope = (last.needed - before.needed) / (last.batch_size - before.batch_size)
    return last.batch_size + (_TARGET * memory - last.needed) / slope if slope > 0 else 0.0
