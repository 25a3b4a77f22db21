"""The learning rate as a function of the step: warm-up, then a cosine or a constant."""

import math
from collections.abc import Callable

WARMUP_START = 1e-6
FLOOR_SHARE = 1e-3  # Of the peak: the official 5e-6 of 5e-3.


def cosine_schedule(
    peak: float, warmup_steps: int, cosine_steps: int, start: float | None = None, floor: float | None = None
) -> Callable[[int], float]:
    """The learning rate at a step: a cosine over `cosine_steps` whose first `warmup_steps` are a linear rise.

    The warm-up lies inside the cosine (official recipe), unlike optax.warmup_cosine_decay_schedule, where the cosine
    starts after it. After the cosine the rate stays at its `floor`, by default a thousandth of the peak: the cool-down.
    The rise begins at `start`, by default a millionth, or the peak if that is lower.
    """
    lowest = FLOOR_SHARE * peak if floor is None else floor

    def after_warmup(step: int) -> float:
        share = min(step / cosine_steps, 1.0)
        return lowest + 0.5 * (peak - lowest) * (1 + math.cos(math.pi * share))

    return _with_warmup(after_warmup, peak, warmup_steps, start)


def constant_schedule(peak: float, warmup_steps: int, start: float | None = None) -> Callable[[int], float]:
    """The learning rate at a step: a linear rise as in `cosine_schedule`, then `peak`."""
    return _with_warmup(lambda step: peak, peak, warmup_steps, start)


def _with_warmup(
    after: Callable[[int], float], peak: float, warmup_steps: int, start: float | None
) -> Callable[[int], float]:
    first = min(WARMUP_START, peak) if start is None else start

    def schedule(step: int) -> float:
        if step < warmup_steps:
            return first + (peak - first) * step / warmup_steps
        return after(step)

    return schedule
