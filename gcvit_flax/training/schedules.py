"""The learning rate as a function of the step: warm-up, then a cosine or a constant."""

import math
from collections.abc import Callable

WARMUP_START = 1e-6
FLOOR_SHARE = 1e-3  # Of the peak: the official 5e-6 of 5e-3.


def cosine_schedule(peak: float, warmup_steps: int, cosine_steps: int) -> Callable[[int], float]:
    """The learning rate at a step: a cosine over `cosine_steps` whose first `warmup_steps` are a linear rise.

    The warm-up lies inside the cosine (official recipe), unlike optax.warmup_cosine_decay_schedule, where the cosine
    starts after it. After the cosine the rate stays at its floor, a thousandth of the peak: the cool-down.
    """
    floor = FLOOR_SHARE * peak

    def after_warmup(step: int) -> float:
        share = min(step / cosine_steps, 1.0)
        return floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi * share))

    return _with_warmup(after_warmup, peak, warmup_steps)


def constant_schedule(peak: float, warmup_steps: int) -> Callable[[int], float]:
    """The learning rate at a step: a linear rise, then `peak`."""
    return _with_warmup(lambda step: peak, peak, warmup_steps)


def _with_warmup(after: Callable[[int], float], peak: float, warmup_steps: int) -> Callable[[int], float]:
    def schedule(step: int) -> float:
        if step < warmup_steps:
            start = min(WARMUP_START, peak)
            return start + (peak - start) * step / warmup_steps
        return after(step)

    return schedule
