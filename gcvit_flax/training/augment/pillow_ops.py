"""Pillow's image operations on the planes (3, H, W) of one uint8 image.

A table (3, 256) says what becomes of each value of each channel, and a blend leads from a degenerate image to the given
one and beyond; warps are in `warp.py`. Results are Pillow's, including its rounding, except for single gray levels
where float32 and float64 fall on two sides of an integer.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from gcvit_flax.config import Size

_VALUES = np.arange(256)  # Of NumPy: JAX would look for devices when this file is imported.


def histogram(planes: jax.Array) -> jax.Array:
    """How often each value occurs in each channel: int32 (3, 256)."""
    # One index instead of two halves the time of the scatter on a CPU.
    indices = planes.astype(jnp.int32) + 256 * jnp.arange(3)[:, None, None]
    return jnp.zeros(3 * 256, jnp.int32).at[indices].add(1).reshape(3, 256)


def look_up(planes: jax.Array, table: jax.Array) -> jax.Array:
    """Replaces each value v of channel c by table[c, v]."""
    return table[jnp.arange(3)[:, None, None], planes]


def autocontrast_table(counts: jax.Array) -> jax.Array:
    """Stretches each channel's range to 0..255; `counts` is the histogram."""
    low, high = _range(counts)
    stretched = (_VALUES - low) * 255 // jnp.maximum(high - low, 1)
    return jnp.where(high > low, stretched, _VALUES).clip(0, 255).astype(jnp.uint8)


def equalize_table(counts: jax.Array) -> jax.Array:
    """Spreads each channel's values as evenly as a table can; `counts` is the histogram."""
    _, high = _range(counts)
    step = jnp.where(high > _VALUES, counts, 0).sum(1, keepdims=True) // 255
    below = jnp.cumsum(counts, 1) - counts
    spread = (below + step // 2) // jnp.maximum(step, 1)
    return jnp.where(step > 0, spread, _VALUES).clip(0, 255).astype(jnp.uint8)


def _range(counts: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The smallest and the largest value (3, 1) that occur in each channel."""
    low, high = jnp.where(counts > 0, _VALUES, 255).min(1), jnp.where(counts > 0, _VALUES, 0).max(1)
    return low[:, None], high[:, None]


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
    return _for_all_channels(blend(0, _VALUES, factor))


def contrast_table(gray_sum: jax.Array, size: Size, factor: jax.Array) -> jax.Array:
    """Scales the distance to the image's mean gray, by the sum of grays of an image of `size`: a blend with it."""
    pixels = size[0] * size[1]
    mean = (2 * gray_sum + pixels) // (2 * pixels)  # Rounds half up.
    return _for_all_channels(blend(mean, _VALUES, factor))


def _for_all_channels(values: jax.Array | np.ndarray) -> jax.Array:
    return jnp.broadcast_to(values.astype(np.uint8), (3, 256))


def grayscale(channels: Sequence[jax.Array] | jax.Array) -> jax.Array:
    """The luma of ITU-R BT.601 of three channels, in Pillow's fixed-point arithmetic: int32."""
    red, green, blue = (channel.astype(jnp.int32) for channel in channels)
    return (19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16


def smooth(rows: jax.Array) -> jax.Array:
    """Pillow's SMOOTH filter: the mean of 3x3 pixels, the middle one counted five times.

    Args:
      rows: one channel (n + 2, W); the first and the last row and column have no result of their own.

    Returns:
      float32 (n, W).
    """
    rows = rows.astype(jnp.float32)
    columns = rows[:-2] + rows[1:-1] + rows[2:]
    sums = columns + jnp.roll(columns, 1, 1) + jnp.roll(columns, -1, 1) + 4 * rows[1:-1]
    # No thirteenth of an integer is near one half, so that float32 rounds as integers do.
    return jnp.floor(sums * (1 / 13) + 0.5)


def interior(size: Size, row: jax.Array, column: jax.Array) -> jax.Array:
    """Where `smooth` changes an image of `size`: not at its border."""
    return (row > 0) & (row < size[0] - 1) & (column > 0) & (column < size[1] - 1)


def blend(degenerate: npt.ArrayLike, values: jax.Array | np.ndarray, factor: jax.Array) -> jax.Array:
    """The degenerate image for factor 0, the image for 1, and extrapolated beyond it; clipped to 0..255: float32."""
    start, end = jnp.asarray(degenerate).astype(jnp.float32), values.astype(jnp.float32)
    return jnp.floor((start + factor * (end - start)).clip(0, 255))
