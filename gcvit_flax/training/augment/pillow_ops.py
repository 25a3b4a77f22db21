"""Pillow's image operations on one uint8 image (H, W, 3), of three kinds that compile well under vmap.

A table (256, 3) says what becomes of each value of each channel, a matrix (2, 3) says where each output pixel comes
from, and a blend leads from a degenerate image to the given one and beyond. Results are Pillow's, including its
rounding, except for single gray levels where float32 and float64 fall on two sides of an integer.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.scipy.ndimage import map_coordinates

_VALUES = np.arange(256)  # Of NumPy: JAX would look for devices when this file is imported.
# Interpolation weights sum to just below one in float32, and Pillow's rounding down would darken even areas.
_ROUNDING_ERROR = 1e-3


def histogram(image: jax.Array) -> jax.Array:
    """How often each value occurs in each channel: int32 (256, 3)."""
    # One index instead of two halves the time of the scatter on a CPU.
    return jnp.zeros(256 * 3, jnp.int32).at[3 * image.astype(jnp.int32) + jnp.arange(3)].add(1).reshape(256, 3)


def look_up(image: jax.Array, table: jax.Array) -> jax.Array:
    """Replaces each value v of channel c by table[v, c]."""
    return table[image, jnp.arange(3)]


def autocontrast_table(counts: jax.Array) -> jax.Array:
    """Stretches each channel's range to 0..255; `counts` is the histogram."""
    low, high = _range(counts)
    stretched = (_VALUES[:, None] - low) * 255 // jnp.maximum(high - low, 1)
    return jnp.where(high > low, stretched, _VALUES[:, None]).clip(0, 255).astype(jnp.uint8)


def equalize_table(counts: jax.Array) -> jax.Array:
    """Spreads each channel's values as evenly as a table can; `counts` is the histogram."""
    _, high = _range(counts)
    step = (counts.sum(0) - counts[high, jnp.arange(3)]) // 255
    below = jnp.cumsum(counts, 0) - counts
    spread = (below + step // 2) // jnp.maximum(step, 1)
    return jnp.where(step > 0, spread, _VALUES[:, None]).clip(0, 255).astype(jnp.uint8)


def _range(counts: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The smallest and the largest value (3,) that occur in each channel."""
    return (counts > 0).argmax(0), 255 - (counts[::-1] > 0).argmax(0)


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


def contrast_table(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Scales the distance to the image's mean gray: a blend with that gray."""
    levels = grayscale(image).astype(jnp.int32)
    mean = (2 * levels.sum() + levels.size) // (2 * levels.size)  # Rounds half up.
    return _for_all_channels(_blend(mean, _VALUES, factor))


def _for_all_channels(values: jax.Array | np.ndarray) -> jax.Array:
    return jnp.broadcast_to(values.astype(np.uint8)[:, None], (256, 3))


def grayscale(image: jax.Array) -> jax.Array:
    """The luma (H, W) of ITU-R BT.601, in Pillow's fixed-point arithmetic."""
    weighted = image.astype(jnp.int32) * jnp.array([19595, 38470, 7471])
    return ((weighted.sum(-1) + 2**15) >> 16).astype(jnp.uint8)


def smooth(image: jax.Array) -> jax.Array:
    """Pillow's SMOOTH filter: the mean of 3x3 pixels, the middle one counted five times; the border stays."""
    values = image.astype(jnp.int32)
    columns = values[:-2] + values[1:-1] + values[2:]
    sums = columns[:, :-2] + columns[:, 1:-1] + columns[:, 2:] + 4 * values[1:-1, 1:-1]
    return image.at[1:-1, 1:-1].set(((2 * sums + 13) // 26).astype(jnp.uint8))


def blend(degenerate: jax.Array, image: jax.Array, factor: jax.Array) -> jax.Array:
    """The degenerate image for factor 0, the image for 1, and extrapolated beyond it; clipped to 0..255."""
    return _blend(degenerate, image, factor).astype(jnp.uint8)


def _blend(degenerate: npt.ArrayLike, values: jax.Array | np.ndarray, factor: jax.Array) -> jax.Array:
    start, end = jnp.float32(degenerate), values.astype(jnp.float32)
    return jnp.floor((start + factor * (end - start)).clip(0, 255))


def warp(image: jax.Array, matrix: jax.Array, fill: jax.Array) -> jax.Array:
    """Gives each pixel (x, y) the color at matrix @ (x, y, 1), bilinear, or `fill` (3,) outside the image.

    Coordinates are those of Pillow's `Image.transform`: the center of the first pixel is (0.5, 0.5).
    """
    height, width, _ = image.shape
    x, y = jnp.arange(width) + 0.5, jnp.arange(height)[:, None] + 0.5
    from_x, from_y = (a * x + b * y + c for a, b, c in matrix)  # (H, W) each
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    warped = jax.vmap(
        lambda channel: map_coordinates(channel, [from_y - 0.5, from_x - 0.5], order=1, mode="nearest"), -1, -1
    )(image.astype(jnp.float32))
    return jnp.where(inside[..., None], jnp.floor(warped + _ROUNDING_ERROR).astype(jnp.uint8), fill)


def affine(
    xx: npt.ArrayLike = 1.0,
    xy: npt.ArrayLike = 0.0,
    x: npt.ArrayLike = 0.0,
    yx: npt.ArrayLike = 0.0,
    yy: npt.ArrayLike = 1.0,
    y: npt.ArrayLike = 0.0,
) -> jax.Array:
    """The matrix (2, 3) with these entries, by default the identity."""
    return jnp.array([[xx, xy, x], [yx, yy, y]])


def rotation(degrees: jax.Array, height: int, width: int) -> jax.Array:
    """The matrix that turns an image counter-clockwise about its center."""
    cos, sin = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    x, y = width / 2, height / 2
    return affine(cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)
