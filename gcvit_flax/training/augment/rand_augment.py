"""RandAugment (Cubuk et al., 2020) in the form called rand-m9-mstd0.5-inc1, where a higher level changes more.

Under vmap, a branch for each of the 15 operations would compute them all. They are of three kinds: a layer computes one
table look-up, one warp and one blend of the image, with the drawn operation's arguments, and selects the drawn one.
"""

import jax
import jax.numpy as jnp

from gcvit_flax.training.augment.pillow_ops import (
    affine,
    autocontrast_table,
    blend,
    brightness_table,
    contrast_table,
    equalize_table,
    grayscale,
    histogram,
    invert_table,
    look_up,
    posterize_table,
    rotation,
    smooth,
    solarize_add_table,
    solarize_table,
    warp,
)

LOOK_UPS = ("autocontrast", "equalize", "invert", "posterize", "solarize", "solarize_add", "contrast", "brightness")
WARPS = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
BLENDS = ("color", "sharpness")
OPERATIONS = LOOK_UPS + WARPS + BLENDS
NO_OPERATION = len(OPERATIONS)

_LAYERS = 2
_PROBABILITY = 0.5
_MAGNITUDE_STD = 0.5
_MAX_LEVEL = 10


def rand_augment(key: jax.Array, image: jax.Array, magnitude: float, fill: jax.Array) -> jax.Array:
    """Applies two random operations to a uint8 image (H, W, 3); warps uncover the color `fill` (3,)."""

    def layer(image: jax.Array, drawn: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        operation, level = drawn
        return apply_operation(image, operation, level, fill), None

    return jax.lax.scan(layer, image, draw_operations(key, magnitude))[0]


def draw_operations(key: jax.Array, magnitude: float) -> tuple[jax.Array, jax.Array]:
    """Each layer's operation, NO_OPERATION for half of them, and its level in -10..10: (2,) and (2,).

    A level's size is normally distributed about `magnitude`; its sign is the direction of operations that have one.
    """
    kind_key, skip_key, level_key, sign_key = jax.random.split(key, 4)
    operations = jax.random.randint(kind_key, (_LAYERS,), 0, len(OPERATIONS))
    applied = jax.random.bernoulli(skip_key, _PROBABILITY, (_LAYERS,))
    levels = magnitude + _MAGNITUDE_STD * jax.random.normal(level_key, (_LAYERS,))
    signs = jax.random.rademacher(sign_key, (_LAYERS,), jnp.float32)
    return jnp.where(applied, operations, NO_OPERATION), signs * levels.clip(0, _MAX_LEVEL)


def apply_operation(image: jax.Array, operation: jax.Array, level: jax.Array, fill: jax.Array) -> jax.Array:
    """Applies OPERATIONS[operation] at `level`, in -10..10, to a uint8 image (H, W, 3)."""
    share = level / _MAX_LEVEL
    factor = jnp.maximum(0.1, 1 + 0.9 * share)
    table = _choose(operation, LOOK_UPS, _tables(image, jnp.abs(share), factor)).astype(jnp.uint8)
    matrix = _choose(operation, WARPS, _matrices(image, share))
    is_color = operation == OPERATIONS.index("color")
    degenerate = jnp.where(is_color, grayscale(image)[..., None], smooth(image))
    results = [
        (LOOK_UPS, look_up(image, table)),
        (WARPS, warp(image, matrix, fill)),
        (BLENDS, blend(degenerate, image, factor)),
    ]
    return jnp.select([_is_drawn(operation, names).any() for names, _ in results], [x for _, x in results], image)


def _tables(image: jax.Array, amount: jax.Array, factor: jax.Array) -> list[jax.Array]:
    counts = histogram(image)
    return [
        autocontrast_table(counts),
        equalize_table(counts),
        invert_table(),
        posterize_table(4 - jnp.int32(amount * 4)),
        solarize_table(256 - jnp.int32(amount * 256)),
        solarize_add_table(jnp.int32(amount * 110)),
        contrast_table(image, factor),
        brightness_table(factor),
    ]


def _matrices(image: jax.Array, share: jax.Array) -> list[jax.Array]:
    height, width, _ = image.shape
    return [
        rotation(30 * share, height, width),
        affine(xy=0.3 * share),
        affine(yx=0.3 * share),
        affine(x=0.45 * width * share),
        affine(y=0.45 * height * share),
    ]


def _choose(operation: jax.Array, names: tuple[str, ...], arguments: list[jax.Array]) -> jax.Array:
    """The drawn operation's entry of `arguments`, which are those of the operations `names`, in float32."""
    # A product, because XLA computes it once; it would fuse a selection and compute it again for each pixel.
    drawn = _is_drawn(operation, names).astype(jnp.float32)
    return jnp.tensordot(drawn, jnp.stack(arguments).astype(jnp.float32), 1, precision=jax.lax.Precision.HIGHEST)


def _is_drawn(operation: jax.Array, names: tuple[str, ...]) -> jax.Array:
    return operation == jnp.array([OPERATIONS.index(name) for name in names])
