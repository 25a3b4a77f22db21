"""AdamW, LAMB, Lion or SGD, with weight decay on kernels alone, clipped gradients and layer-wise learning rates."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gcvit_flax.training.train_config import TrainConfig

Params = Mapping[str, Any]


def make_optimizer(config: TrainConfig, params: Params, depths: tuple[int, ...]) -> optax.GradientTransformation:
    """`config.optimizer` after clipping by the global norm, without the learning rate; AdamW is the official recipe's.

    It acts on trees like `params`. The training step multiplies by the rate, so that one compiled program serves every
    schedule. Parameters whose `learning_rate_scales` are 0 never change and have no moments.
    """
    scales = learning_rate_scales(params, depths, config)
    # Biases, norms, layer scales and bias tables do not decay.
    kernels = jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
    optimizer = optax.chain(
        _clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        _direction(config),
        optax.add_decayed_weights(config.weight_decay, mask=kernels),
        *([optax.scale_by_trust_ratio()] if config.optimizer == "lamb" else []),
    )
    if config.layer_decay == 1 and not config.head_only:
        return optimizer
    trained = jax.tree.map(lambda scale: scale > 0, scales)
    scale_rates = optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, scales))
    return optax.chain(optax.masked(optimizer, trained), scale_rates)


def _direction(config: TrainConfig) -> optax.GradientTransformation:
    """What gradients become before weights decay (AdamW and SGDW: Loshchilov & Hutter, 2019; LAMB: You et al., 2020;
    Lion: Chen et al., 2023).
    """
    if config.optimizer == "sgd":
        return optax.trace(0.9 if config.momentum is None else config.momentum)
    if config.optimizer == "lion":
        return optax.scale_by_lion(*(config.betas or (0.9, 0.99)))
    return optax.scale_by_adam(*(config.betas or (0.9, 0.999)), eps=config.adam_epsilon)


def global_norm(tree: Any) -> jax.Array:
    """The Euclidean norm of all values of a tree, as `optax.tree.norm`.

    Vectors, more than half of the leaves, are concatenated first: XLA:CPU makes three small loops of each sum of
    squares, and a training step of gcvit_xxtiny takes a tenth longer to compile with one sum per leaf.
    """
    leaves = jax.tree.leaves(tree)
    vectors = [x for x in leaves if x.ndim < 2]
    leaves = [x for x in leaves if x.ndim >= 2] + ([jnp.concatenate(vectors)] if vectors else [])
    return jnp.sqrt(sum(jnp.square(x).sum() for x in leaves))


def _clip_by_global_norm(largest: float) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm` with `global_norm`."""

    def clip(updates: Params, _: Params | None) -> Params:
        factor = jnp.minimum(1.0, largest / global_norm(updates))
        return jax.tree.map(lambda x: x * factor, updates)

    return optax.stateless(clip)


def learning_rate_scales(params: Params, depths: tuple[int, ...], config: TrainConfig) -> Params:
    """Each parameter's factor on the learning rate: `layer_decay` to the power of its distance from the head in blocks.

    A level's query generator counts with its first block, its downsample with its last, the stem as one block more and
    the final norm with the head (layer-wise decay: Clark et al., 2020, ELECTRA; Bao et al., 2022, BEiT). With
    `head_only`, all factors but the head's are 0.
    """
    ends = [sum(depths[: level + 1]) for level in range(len(depths))]

    def scale(path: tuple[Any, ...], _: Any) -> float:
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
    """The number, from 1 among all blocks, of the block that a part of a level counts with."""
    first = ends[level - 1] if level else 0
    if part == "q_global_gen":
        return first + 1
    return ends[level] if part == "downsample" else first + 1 + int(part.removeprefix("blocks_"))
