"""Pillow's image operations on the planes (3, H, W) of one uint8 image.

A table (3, 256) says what becomes of each value of each channel, and a blend leads from a degenerate image to the given
one and beyond. Results are Pillow's, including its rounding, except for single gray levels where float32 and float64
fall on two sides of an integer.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from gcvit_flax.training.augment.histogram import histogram
from gcvit_flax.training.augment.lane_gather import look_up_in_lanes

_VALUES = np.arange(256)  # Of NumPy: JAX would look for devices when this file is imported.


def look_up(planes: jax.Array, tables: jax.Array) -> jax.Array:
    """Replaces each value v of channel c by tables[c, v]."""
    return jax.lax.platform_dependent(planes, tables, tpu=look_up_in_lanes, default=look_up_by_gather)


def look_up_by_gather(planes: jax.Array, tables: jax.Array) -> jax.Array:
    """`look_up` for CPUs and GPUs."""
    return tables[jnp.arange(3)[:, None, None], planes]


def autocontrast_table(planes: jax.Array) -> jax.Array:
    """Stretches each channel's range to 0..255."""
    low, high = (limit(planes, (1, 2)).astype(jnp.int32)[:, None] for limit in (jnp.min, jnp.max))
    stretched = (_VALUES - low) * 255 // jnp.maximum(high - low, 1)
    return jnp.where(high > low, stretched, _VALUES).clip(0, 255).astype(jnp.uint8)


def equalize_table(planes: jax.Array) -> jax.Array:
    """Spreads each channel's values as evenly as a table can."""
    counts = histogram(planes)
    highest = planes.max((1, 2)).astype(jnp.int32)[:, None]
    step = jnp.where(highest > _VALUES, counts, 0).sum(1, keepdims=True) // 255
    below = jnp.cumsum(counts, 1) - counts
    spread = (below + step // 2) // jnp.maximum(step, 1)
    return jnp.where(step > 0, spread, _VALUES).clip(0, 255).astype(jnp.uint8)


def invert_table() -> jax.Array:
    """The negative."""
    return _for_all_channels(255 - _VALUES)


def posterize_table(bits: jax.Array) -> jax.Array:
    """Keeps the `bits` highest bits, 0 to 8, of each value."""
    return _for_all_channels(_VALUES >> (8 - bits) << (8 - bits))


def solarize_table(threshold: jax.Array) -> jax.Array:
    """Inverts the values from `threshold` on."""
    return _for_all_channels(jnp.where(threshold > _VALUES, _VALUES, 255 - _VALUES))


def solarize_add_table(addend: jax.Array) -> jax.Array:
    """Adds to the values below 128."""
    return _for_all_channels(jnp.where(_VALUES < 128, (_VALUES + addend).clip(0, 255), _VALUES))


def brightness_table(factor: jax.Array) -> jax.Array:
    """Scales all values: a blend with black."""
    return _for_all_channels(_blend(0, _VALUES, factor))


def contrast_table(planes: jax.Array, factor: jax.Array) -> jax.Array:
    """Scales the distance to the image's mean gray: a blend with that gray."""
    levels = grayscale(planes).astype(jnp.int32)
    mean = (2 * levels.sum() + levels.size) // (2 * levels.size)  # Rounds half up.
    return _for_all_channels(_blend(mean, _VALUES, factor))


def _for_all_channels(values: jax.Array | np.ndarray) -> jax.Array:
    return jnp.broadcast_to(values.astype(np.uint8), (3, 256))


def grayscale(planes: jax.Array) -> jax.Array:
    """The luma (H, W) of ITU-R BT.601, in Pillow's fixed-point arithmetic."""
    red, green, blue = planes.astype(jnp.int32)
    return ((19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16).astype(jnp.uint8)


def smooth(planes: jax.Array) -> jax.Array:
    """Pillow's SMOOTH filter: the mean of 3x3 pixels, the middle one counted five times; the border stays."""
    _, height, width = planes.shape
    values = planes.astype(jnp.float32)
    columns = values + jnp.roll(values, 1, 1) + jnp.roll(values, -1, 1)
    sums = columns + jnp.roll(columns, 1, 2) + jnp.roll(columns, -1, 2) + 4 * values
    y, x = jnp.arange(height)[:, None], jnp.arange(width)
    interior = (y > 0) & (y < height - 1) & (x > 0) & (x < width - 1)
    # No thirteenth of an integer is near one half, so that float32 rounds as integers do.
    return jnp.where(interior, jnp.floor(sums / 13 + 0.5), values).astype(jnp.uint8)


def blend(degenerate: jax.Array, planes: jax.Array, factor: jax.Array) -> jax.Array:
    """The degenerate image for factor 0, the image for 1, and extrapolated beyond it; clipped to 0..255."""
    return _blend(degenerate, planes, factor).astype(jnp.uint8)


def _blend(degenerate: npt.ArrayLike, values: jax.Array | np.ndarray, factor: jax.Array) -> jax.Array:
    start, end = jnp.float32(degenerate), values.astype(jnp.float32)
    return jnp.floor((start + factor * (end - start)).clip(0, 255))
