"""AdamW with its learning-rate schedule, weight decay on weights alone, clipped gradients and layer-wise rates."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from gcvit_flax.training.train_config import TrainConfig

WARMUP_START = 1e-6
FLOOR_SHARE = 1e-3  # of the peak: official 5e-6 of 5e-3


def cosine_schedule(peak: float, warmup_steps: int, cosine_steps: int) -> Callable[[int], float]:
    """The learning rate at a step: a cosine over `cosine_steps`, the first `warmup_steps` replaced by a linear rise.

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


def make_optimizer(config: TrainConfig, params, depths: tuple[int, ...]) -> optax.GradientTransformation:
    """AdamW, betas .9 and .999, after clipping to the global norm (official recipe), but for the learning rate.

    It acts on trees like `params`. The training step multiplies by the rate, so that one compiled program serves every
    schedule. What `learning_rate_scales` puts at 0 never changes and has no moments.
    """
    scales = learning_rate_scales(params, depths, config)
    # Not of biases, norms, layer scales and bias tables.
    kernels = jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
    adamw = optax.chain(
        _clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        optax.scale_by_adam(eps=config.adam_epsilon),
        optax.add_decayed_weights(config.weight_decay, mask=kernels),
    )
    if config.layer_decay == 1 and not config.head_only:
        return adamw
    trained = jax.tree.map(lambda scale: scale > 0, scales)
    scale_rates = optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, scales))
    return optax.chain(optax.masked(adamw, trained), scale_rates)


def global_norm(tree) -> jax.Array:
    """The Euclidean norm of all values of a tree (`optax.tree.norm`).

    Leaves of less than two axes, two in three, are joined first: on a CPU each sum of squares is three small loops, and
    a training step of gcvit_xxtiny 3 % slower where every leaf has its own.
    """
    leaves = jax.tree.leaves(tree)
    vectors = [x for x in leaves if x.ndim < 2]
    leaves = [x for x in leaves if x.ndim >= 2] + ([jnp.concatenate(vectors)] if vectors else [])
    return jnp.sqrt(sum(jnp.square(x).sum() for x in leaves))


def _clip_by_global_norm(largest: float) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm` by way of `global_norm`."""

    def clip(updates, _):
        factor = jnp.minimum(1.0, largest / global_norm(updates))
        return jax.tree.map(lambda x: x * factor, updates)

    return optax.stateless(clip)


def learning_rate_scales(params, depths: tuple[int, ...], config: TrainConfig):
    """Each parameter's factor on the learning rate: `layer_decay` to the number of blocks between it and the head.

    A level's query generator counts with its first block, its downsample with its last, and the stem as one block
    more (layer-wise decay: Clark et al., 2020, ELECTRA; Bao et al., 2022, BEiT). With `head_only`, all but the head's
    are 0.
    """
    ends = [sum(depths[: level + 1]) for level in range(len(depths))]

    def scale(path, _) -> float:
        module, part = path[0].key, path[1].key
        if config.head_only:
            return float(module == "head")
        if module in ("norm", "head"):
            block = ends[-1] + 1
        elif module == "patch_embed":
            block = 0
        else:
            block = _block_number(part, ends, int(module.removeprefix("levels_")))
        return config.layer_decay ** (ends[-1] + 1 - block)

    return jax.tree_util.tree_map_with_path(scale, params)


def _block_number(part: str, ends: list[int], level: int) -> int:
    """A part's place among all blocks, from 1."""
    first = ends[level - 1] if level else 0
    if part == "q_global_gen":
        return first + 1
    return ends[level] if part == "downsample" else first + 1 + int(part.removeprefix("blocks_"))


def ema_rate(decay: float, count: jax.Array) -> jax.Array:
    """The share of the newest parameters in their moving average after `count` updates, without a bias to the start.

    It makes the average over updates 1..count weigh update i in proportion to decay^(count - i), as Adam's corrected
    moments do (Kingma & Ba, 2015, section 3), instead of keeping decay^count of the initial parameters.
    """
    return (1 - decay) / -jnp.expm1(count * math.log(decay))
