"""Affine warps, bilinear as Pillow's `Image.transform`, of colors packed into one integer each to be moved at once."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy.typing as npt

from gcvit_flax.config import Size

# Keeps values that are integers but for float32's rounding from being rounded down to the integer below.
_ROUNDING_ERROR = 1e-3
# Rows (xx, xy, x) and (yx, yy, y).
Matrix = Sequence[Sequence[Any]] | jax.Array


def pack(channels: Sequence[jax.Array] | jax.Array) -> jax.Array:
    """Three channels of values 0..255 as colors, int32."""
    red, green, blue = (channel.astype(jnp.int32) for channel in channels)
    return red | green << 8 | blue << 16


def unpack(colors: jax.Array) -> list[jax.Array]:
    """The three channels of colors, int32."""
    return [colors >> shift & 255 for shift in (0, 8, 16)]


def warp(colors: jax.Array, matrix: jax.Array, fill: jax.Array) -> jax.Array:
    """Gives each pixel (x, y) of (H, W) the color at matrix @ (x, y, 1), bilinear, or `fill` outside the image.

    Coordinates are those of Pillow's `Image.transform`: the center of the first pixel is (0.5, 0.5).
    """
    height, width = size = colors.shape[0], colors.shape[1]
    from_x, from_y = source(matrix, jnp.arange(width)[None], jnp.arange(height)[:, None])
    (left, right), (top, down) = split(from_x, width), split(from_y, height)
    columns, rows = (left, jnp.minimum(left + 1, width - 1)), (top, jnp.minimum(top + 1, height - 1))
    flat = colors.reshape(-1)
    corners = [flat.at[row * width + column].get(mode="promise_in_bounds") for row in rows for column in columns]
    return jnp.where(inside(size, from_x, from_y), interpolate(corners, right, down), fill)


def source(matrix: Matrix, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """From which column and row, both real, the color of the pixel of column `x` and row `y` comes."""
    (xx, xy, x0), (yx, yy, y0) = matrix
    return xx * (x + 0.5) + xy * (y + 0.5) + (x0 - 0.5), yx * (x + 0.5) + yy * (y + 0.5) + (y0 - 0.5)


def inside(size: Size, x: jax.Array, y: jax.Array) -> jax.Array:
    """Whether real columns and rows lie in an image of `size`."""
    height, width = size
    return (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)


def split(position: jax.Array, length: int) -> tuple[jax.Array, jax.Array]:
    """The integer and the fractional part of real columns or rows, moved into 0..length - 1."""
    position = position.clip(0, length - 1)
    whole = jnp.floor(position)
    return whole.astype(jnp.int32), position - whole


def interpolate(corners: Sequence[jax.Array], right: jax.Array, down: jax.Array) -> jax.Array:
    """Colors between those of four pixels (top left, top right, bottom left, bottom right), at shares of 0 to 1."""
    channels = []
    for four in zip(*map(unpack, corners), strict=True):
        a, b, c, d = (corner.astype(jnp.float32) for corner in four)
        top, bottom = a + right * (b - a), c + right * (d - c)
        channels.append(jnp.floor(top + down * (bottom - top) + _ROUNDING_ERROR))
    return pack(channels)


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


def rotation(degrees: jax.Array, size: Size) -> jax.Array:
    """The matrix that turns an image of `size` counter-clockwise about its center."""
    cos, sin = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    y, x = (side / 2 for side in size)
    return affine(cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)
