"""RandAugment (Cubuk et al., 2020) in the form called rand-m9-mstd0.5-inc1, where a higher level changes more.

The 15 operations are of three kinds, each of which computes the drawn operation's arguments and then one table look-up,
warp or blend. For images one after the other only the drawn kind is computed, under vmap all three.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gcvit_flax.config import Size
from gcvit_flax.training.augment.pillow_ops import (
    autocontrast_table,
    blend,
    brightness_table,
    contrast_table,
    equalize_table,
    grayscale,
    invert_table,
    look_up,
    posterize_table,
    smooth,
    solarize_add_table,
    solarize_table,
)
from gcvit_flax.training.augment.warp import affine, rotation, warp

# A table (3, 256) for planes (3, H, W) and a level in -1..1.
LOOK_UPS = {
    "autocontrast": lambda planes, level: autocontrast_table(planes),
    "equalize": lambda planes, level: equalize_table(planes),
    "invert": lambda planes, level: invert_table(),
    "posterize": lambda planes, level: posterize_table(4 - jnp.int32(jnp.abs(level) * 4)),
    "solarize": lambda planes, level: solarize_table(256 - jnp.int32(jnp.abs(level) * 256)),
    "solarize_add": lambda planes, level: solarize_add_table(jnp.int32(jnp.abs(level) * 110)),
    "contrast": lambda planes, level: contrast_table(planes, _factor(level)),
    "brightness": lambda planes, level: brightness_table(_factor(level)),
}
WARPS = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
BLENDS = ("color", "sharpness")
OPERATIONS = (*LOOK_UPS, *WARPS, *BLENDS)
NO_OPERATION = len(OPERATIONS)

_FIRST_WARP, _FIRST_BLEND = OPERATIONS.index(WARPS[0]), OPERATIONS.index(BLENDS[0])
_LAYERS = 2
_PROBABILITY = 0.5
_MAGNITUDE_STD = 0.5
_MAX_LEVEL = 10


class Operation(NamedTuple):
    """A number in OPERATIONS or NO_OPERATION, the level in -1..1, and the matrix (2, 3) if it is a warp."""

    number: jax.Array
    level: jax.Array
    matrix: jax.Array


def draw_operations(key: jax.Array, magnitude: float, size: Size) -> Operation:
    """Each layer's operation, none for half of them, on an image of `size`: arrays (2, ...).

    A level's size is normally distributed about `magnitude` / 10; its sign is the direction of operations that have
    one.
    """
    kind_key, skip_key, level_key, sign_key = jax.random.split(key, 4)
    numbers = jax.random.randint(kind_key, (_LAYERS,), 0, len(OPERATIONS))
    applied = jax.random.bernoulli(skip_key, _PROBABILITY, (_LAYERS,))
    levels = magnitude + _MAGNITUDE_STD * jax.random.normal(level_key, (_LAYERS,))
    signs = jax.random.rademacher(sign_key, (_LAYERS,), jnp.float32)
    levels = signs * levels.clip(0, _MAX_LEVEL) / _MAX_LEVEL
    numbers = jnp.where(applied, numbers, NO_OPERATION)
    return jax.vmap(lambda *drawn: operation(*drawn, size))(numbers, levels)


def operation(number: jax.Array, level: jax.Array, size: Size) -> Operation:
    """OPERATIONS[number] at `level`, in -1..1, for an image of `size`."""
    height, width = size
    matrices = [
        rotation(30 * level, size),
        affine(xy=0.3 * level),
        affine(yx=0.3 * level),
        affine(x=0.45 * width * level),
        affine(y=0.45 * height * level),
    ]
    drawn = number - _FIRST_WARP == jnp.arange(len(matrices))
    matrix = jnp.where(drawn[:, None, None], jnp.stack(matrices), 0).sum(0)
    return Operation(number, level, matrix)


def rand_augment(planes: jax.Array, operations: Operation, fill: jax.Array) -> jax.Array:
    """Applies operations, arrays (n, ...), in turn to uint8 planes (3, H, W); warps uncover the color `fill` (3,)."""

    def layer(planes: jax.Array, operation: Operation) -> tuple[jax.Array, None]:
        return apply_operation(planes, operation, fill), None

    return jax.lax.scan(layer, planes, operations)[0]


def apply_operation(planes: jax.Array, operation: Operation, fill: jax.Array) -> jax.Array:
    """Applies one operation to uint8 planes (3, H, W)."""
    first_of_kind = jnp.array([_FIRST_WARP, _FIRST_BLEND, NO_OPERATION])
    kind = (operation.number >= first_of_kind).sum()
    branches = (_look_up, _warp, _blend, lambda planes, *_: planes)
    return jax.lax.switch(kind, branches, planes, operation, fill)


def _look_up(planes: jax.Array, operation: Operation, _: jax.Array) -> jax.Array:
    table = jax.lax.switch(operation.number, list(LOOK_UPS.values()), planes, operation.level)
    # Computed once; fused with the look-up, it would be computed for each pixel.
    return look_up(planes, jax.lax.optimization_barrier(table))


def _warp(planes: jax.Array, operation: Operation, fill: jax.Array) -> jax.Array:
    return warp(planes, operation.matrix, fill)


def _blend(planes: jax.Array, operation: Operation, _: jax.Array) -> jax.Array:
    is_color = operation.number == OPERATIONS.index("color")
    degenerate = jax.lax.cond(is_color, _gray, smooth, planes)
    return blend(degenerate, planes, _factor(operation.level))


def _gray(planes: jax.Array) -> jax.Array:
    return jnp.broadcast_to(grayscale(planes), planes.shape)


def _factor(level: jax.Array) -> jax.Array:
    return jnp.maximum(0.1, 1 + 0.9 * level)
