"""Affine warps of one uint8 image's planes (3, H, W), bilinear as Pillow's `Image.transform`."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy.typing as npt
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from gcvit_flax.config import Size
from gcvit_flax.training.augment.lane_gather import LANES, ROWS, pad, take_lanes

# Keeps values that are integers but for float32's rounding from being rounded down to the integer below.
_ROUNDING_ERROR = 1e-3
Matrix = Sequence[Sequence[Any]]


def warp(planes: jax.Array, matrix: jax.Array, fill: jax.Array) -> jax.Array:
    """Gives each pixel (x, y) the color at matrix @ (x, y, 1), bilinear, or `fill` (3,) outside the image.

    Coordinates are those of Pillow's `Image.transform`: the center of the first pixel is (0.5, 0.5). The last diagonal
    element of `matrix` (2, 3) must be above 0.75.
    """
    colors = jax.lax.platform_dependent(
        _pack(planes.astype(jnp.int32)), matrix, _pack(fill.astype(jnp.int32)), tpu=warp_in_lanes, default=warp_by_gather
    )
    return jnp.stack([channel.astype(jnp.uint8) for channel in _unpack(colors)])


def _pack(channels: Sequence[jax.Array] | jax.Array) -> jax.Array:
    """Colors as one integer each, to be moved at once."""
    red, green, blue = channels
    return red | green << 8 | blue << 16


def _unpack(colors: jax.Array) -> list[jax.Array]:
    return [colors >> shift & 255 for shift in (0, 8, 16)]


def _source(matrix: Matrix, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """From which column and row, both real, the color of the pixel of column `x` and row `y` comes."""
    (xx, xy, x0), (yx, yy, y0) = matrix
    return xx * (x + 0.5) + xy * (y + 0.5) + (x0 - 0.5), yx * (x + 0.5) + yy * (y + 0.5) + (y0 - 0.5)


def _inside(size: Size, from_x: jax.Array, from_y: jax.Array) -> jax.Array:
    height, width = size
    return (from_x >= -0.5) & (from_x < width - 0.5) & (from_y >= -0.5) & (from_y < height - 0.5)


def _split(position: jax.Array, length: int) -> tuple[jax.Array, jax.Array]:
    """The integer and the fractional part of real positions, moved into 0..length - 1."""
    position = position.clip(0, length - 1)
    whole = jnp.floor(position)
    return whole.astype(jnp.int32), position - whole


def _interpolate(corners: Sequence[jax.Array], right: jax.Array, down: jax.Array) -> jax.Array:
    """Colors between those of four pixels (top left, top right, bottom left, bottom right), at shares of 0 to 1."""
    channels = []
    for a, b, c, d in zip(*map(_unpack, corners), strict=True):
        a, b, c, d = (corner.astype(jnp.float32) for corner in (a, b, c, d))
        top, bottom = a + right * (b - a), c + right * (d - c)
        channels.append(jnp.floor(top + down * (bottom - top) + _ROUNDING_ERROR).astype(jnp.int32))
    return _pack(channels)


def warp_by_gather(colors: jax.Array, matrix: jax.Array, fill: jax.Array) -> jax.Array:
    """`warp` of packed colors (H, W) for CPUs and GPUs."""
    height, width = size = colors.shape[0], colors.shape[1]
    from_x, from_y = _source(matrix, jnp.arange(width)[None], jnp.arange(height)[:, None])
    (left, right), (top, down) = _split(from_x, width), _split(from_y, height)
    columns, rows = (left, jnp.minimum(left + 1, width - 1)), (top, jnp.minimum(top + 1, height - 1))
    flat = colors.reshape(-1)
    corners = [flat.at[row * width + column].get(mode="promise_in_bounds") for row in rows for column in columns]
    return jnp.where(_inside(size, from_x, from_y), _interpolate(corners, right, down), fill)


def warp_in_lanes(colors: jax.Array, matrix: jax.Array, fill: jax.Array, interpret: bool = False) -> jax.Array:
    """`warp` of packed colors (H, W) for TPUs, by gathers along rows and then along columns.

    Of the pixels of one column, those whose source begins in the same row are at most two, one above the other, because
    rows come to lie closer by less than a quarter: one in an even row, one in an odd row. So first the colors for even
    rows and those for odd rows are computed where their source's row is, and then moved to their own.
    """
    size = colors.shape[0], colors.shape[1]
    padded = pad(colors, LANES, LANES)
    rows, columns = padded.shape
    kernel = functools.partial(pl.pallas_call, interpret=interpret)
    scalars = pl.BlockSpec(memory_space=pltpu.SMEM)
    block, count = pl.BlockSpec((ROWS, columns), lambda i: (i, 0)), rows // ROWS
    below = pl.BlockSpec((ROWS, columns), lambda i: (jnp.minimum(i + 1, count - 1), 0))
    shape = jax.ShapeDtypeStruct(padded.shape, jnp.int32)
    matrix = matrix.reshape(1, 6)  # In two dimensions, of which vmap adds the first.
    even, odd = kernel(
        functools.partial(_sample, size),
        (shape, shape),
        grid=count,
        in_specs=[scalars, block, below],
        out_specs=(block, block),
        name="warp_sample",
    )(matrix, padded, padded)
    block = pl.BlockSpec((rows, LANES), lambda i: (0, i))
    moved = kernel(
        functools.partial(_move, size),
        shape,
        grid=columns // LANES,
        in_specs=[scalars, scalars, block, block],
        out_specs=block,
        name="warp_move",
    )(matrix, fill.reshape(1, 1), even, odd)
    return moved[: size[0], : size[1]]


def _sample(size: Size, matrix_ref: Any, colors_ref: Any, below_ref: Any, *out_refs: Any) -> None:
    """Interpolates colors for the even and for the odd row whose source begins in each row."""
    height, width = size
    matrix = _read(matrix_ref)
    _, (yx, yy, y0) = matrix
    row, x = _positions(colors_ref.shape, pl.program_id(0) * ROWS, 0)
    top = colors_ref[...]
    bottom = jnp.concatenate([top[1:], below_ref[:1]])
    # Sources in this row, or above the first, are less than 0.75 rows from row + 0.25, so less than one pixel from:
    middle = (row + 0.75 - y0 - yx * (x + 0.5)) * (1 / yy) - 0.5
    for parity, out_ref in enumerate(out_refs):
        y = 2 * jnp.floor((middle - parity) * 0.5 + 0.5) + parity
        from_x, from_y = _source(matrix, x, y)
        left, right = _split(from_x, width)
        columns = left, jnp.minimum(left + 1, width - 1)
        corners = [take_lanes(source, column) for source in (top, bottom) for column in columns]
        out_ref[...] = _interpolate(corners, right, (from_y.clip(0, height - 1) - row).clip(0, 1))


def _move(size: Size, matrix_ref: Any, fill_ref: Any, even_ref: Any, odd_ref: Any, out_ref: Any) -> None:
    """Moves colors along columns to the rows that they were computed for."""
    even, odd = even_ref[...].T, odd_ref[...].T
    x, y = _positions(even.shape, pl.program_id(0) * LANES, 0)
    from_x, from_y = _source(_read(matrix_ref), x, y)
    row, _ = _split(from_y, size[0])
    is_even = jnp.floor(y * 0.5) * 2 == y
    moved = jnp.where(is_even, take_lanes(even, row), take_lanes(odd, row))
    out_ref[...] = jnp.where(_inside(size, from_x, from_y), moved, fill_ref[0, 0]).T


def _positions(shape: Size, first: jax.Array, second: int) -> list[jax.Array]:
    """The positions along both axes, real."""
    starts = first, second
    return [(jax.lax.broadcasted_iota(jnp.int32, shape, i) + starts[i]).astype(jnp.float32) for i in (0, 1)]


def _read(matrix_ref: Any) -> Matrix:
    return [[matrix_ref[0, 3 * row + column] for column in range(3)] for row in range(2)]


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
