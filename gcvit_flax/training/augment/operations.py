"""The operations of RandAugment (Cubuk et al., 2020) in the form called rand-m9-mstd0.5-inc1, and what is drawn.

The 15 operations are of three kinds: a table look-up, a warp and a blend. A higher level changes more.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gcvit_flax.config import Size
from gcvit_flax.training.augment.pillow_ops import (
    autocontrast_table,
    brightness_table,
    contrast_table,
    equalize_table,
    invert_table,
    posterize_table,
    solarize_add_table,
    solarize_table,
)
from gcvit_flax.training.augment.warp import affine, rotation

LOOK_UPS = ("autocontrast", "equalize", "invert", "posterize", "solarize", "solarize_add", "contrast", "brightness")
WARPS = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
BLENDS = ("color", "sharpness")
OPERATIONS = LOOK_UPS + WARPS + BLENDS
NO_OPERATION = len(OPERATIONS)
# Of the kinds after the first, in the order of OPERATIONS, and of none.
FIRST_OF_KIND = (OPERATIONS.index(WARPS[0]), OPERATIONS.index(BLENDS[0]), NO_OPERATION)
# Which operations need which statistics of the image.
BY_HISTOGRAM = [OPERATIONS.index(name) for name in ("autocontrast", "equalize")]
BY_GRAY = [OPERATIONS.index("contrast")]
COLOR = OPERATIONS.index("color")

_LAYERS = 2
_PROBABILITY = 0.5
_MAGNITUDE_STD = 0.5
_MAX_LEVEL = 10


class Operation(NamedTuple):
    """A number in OPERATIONS or NO_OPERATION, the level in -1..1, a blend's factor and a warp's matrix (2, 3)."""

    number: jax.Array
    level: jax.Array
    factor: jax.Array
    matrix: jax.Array


def draw_operations(key: jax.Array, magnitude: float, size: Size) -> Operation:
    """Each layer's operation, none for half of them, for an image of `size`: arrays (2, ...).

    The level's size is normally distributed about `magnitude` / 10; its sign is the direction of operations that have
    one.
    """
    kind_key, skip_key, level_key, sign_key = jax.random.split(key, 4)
    numbers = jax.random.randint(kind_key, (_LAYERS,), 0, len(OPERATIONS))
    applied = jax.random.bernoulli(skip_key, _PROBABILITY, (_LAYERS,))
    levels = magnitude + _MAGNITUDE_STD * jax.random.normal(level_key, (_LAYERS,))
    signs = jax.random.rademacher(sign_key, (_LAYERS,), jnp.float32)
    levels = signs * levels.clip(0, _MAX_LEVEL) / _MAX_LEVEL
    numbers = jnp.where(applied, numbers, NO_OPERATION)
    return jax.vmap(lambda number, level: operation(number, level, size))(numbers, levels)


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
    drawn = number - OPERATIONS.index(WARPS[0]) == jnp.arange(len(matrices))
    matrix = jnp.where(drawn[:, None, None], jnp.stack(matrices), 0).sum(0)
    return Operation(number, level, jnp.maximum(0.1, 1 + 0.9 * level), matrix)


def make_table(operation: Operation, counts: jax.Array, gray_sum: jax.Array, size: Size) -> jax.Array:
    """The table (3, 256) of a look-up, by the histogram (3, 256) and the sum of grays where it needs them."""
    amount = jnp.abs(operation.level)
    tables = [
        lambda: autocontrast_table(counts),
        lambda: equalize_table(counts),
        invert_table,
        lambda: posterize_table(4 - jnp.int32(amount * 4)),
        lambda: solarize_table(256 - jnp.int32(amount * 256)),
        lambda: solarize_add_table(jnp.int32(amount * 110)),
        lambda: contrast_table(gray_sum, size, operation.factor),
        lambda: brightness_table(operation.factor),
    ]
    # Computed once; fused with the look-up, it would be computed for each pixel.
    return jax.lax.optimization_barrier(jax.lax.switch(operation.number, tables))
