"""AdamW with a cosine schedule, weight decay on weights alone and clipped gradients."""

import math
from collections.abc import Callable

import jax
import optax

WARMUP_START = 1e-6
FLOOR_SHARE = 1e-3  # of the peak: official 5e-6 of 5e-3


def cosine_schedule(peak: float, warmup_steps: int, total_steps: int) -> Callable[[int], float]:
    """The learning rate at a step: a cosine over all steps, with the first `warmup_steps` replaced by a linear rise.

    The warm-up lies inside the cosine (official recipe), unlike optax.warmup_cosine_decay_schedule, where the cosine
    starts after it.
    """
    floor = FLOOR_SHARE * peak

    def schedule(step: int) -> float:
        if step < warmup_steps:
            return WARMUP_START + (peak - WARMUP_START) * step / warmup_steps
        share = min(step / total_steps, 1.0)
        return floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi * share))

    return schedule


def make_optimizer(weight_decay: float, clip_norm: float) -> optax.GradientTransformation:
    """AdamW, betas .9 and .999, after clipping to the global norm (official recipe), but for the learning rate.

    The training step multiplies by it, so that one compiled program serves every schedule.
    """
    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.scale_by_adam(),
        optax.add_decayed_weights(weight_decay, mask=decays),
    )


def decays(params):
    """True for the leaves that weight decay touches: kernels; not biases, norms, layer scales or bias tables."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
