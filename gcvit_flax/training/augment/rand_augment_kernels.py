"""Kernels of `rand_augment_tpu.py`, which see a block of rows, or of columns, of one image of colors.

TPUs gather quickly within the 128 lanes of a vector register only.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from gcvit_flax.config import Size
from gcvit_flax.training.augment.operations import BY_GRAY, BY_HISTOGRAM, COLOR, FIRST_OF_KIND
from gcvit_flax.training.augment.pillow_ops import blend, grayscale, interior, smooth
from gcvit_flax.training.augment.warp import Matrix, inside, interpolate, pack, source, split, unpack

LANES = 128
ROWS = 32  # Of an image, in a block,
HALO = 8  # and of those above and below that a kernel sees.
Ref = Any


def count(size: Size, scalars_ref: Ref, colors_ref: Ref, pairs_ref: Ref, grays_ref: Ref) -> None:
    """Adds up a block's grays, and in how many pixels a value's high and low half byte occur together.

    The latter is a product of one-hot codes. It counts all pairs of eight rows, of which those of a row with itself are
    used, because the matrix unit has 128 columns.
    """

    @pl.when(pl.program_id(1) == 0)
    def clear() -> None:
        pairs_ref[...], grays_ref[...] = jnp.zeros_like(pairs_ref), jnp.zeros_like(grays_ref)

    row, column = _positions(colors_ref.shape, pl.program_id(1) * ROWS)
    valid = inside(size, column, row)

    @pl.when(_is_any(scalars_ref, BY_HISTOGRAM))
    def count_values() -> None:
        for channel, values in enumerate(unpack(colors_ref[...])):
            values = jnp.where(valid, values, -1)  # No high half.
            for start in range(0, ROWS, 8):
                high, low = map(_one_hot, (values[start : start + 8] >> 4, values[start : start + 8] & 15))
                pairs_ref[channel] += jax.lax.dot_general(
                    high, low, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
                )

    @pl.when(_is_any(scalars_ref, BY_GRAY))
    def add_grays() -> None:
        grays = jnp.where(valid, grayscale(unpack(colors_ref[...])), 0)
        for start in range(0, ROWS, 8):
            for lane in range(0, grays.shape[1], LANES):
                grays_ref[...] += grays[start : start + 8, lane : lane + LANES]


def _one_hot(halves: jax.Array) -> jax.Array:
    """bfloat16 (16 8, W) of half bytes (8, W)."""
    return jnp.concatenate([(halves == i).astype(jnp.float32) for i in range(16)]).astype(jnp.bfloat16)


def operate(
    size: Size,
    scalars_ref: Ref,
    table_ref: Ref,
    above_ref: Ref,
    colors_ref: Ref,
    below_ref: Ref,
    even_ref: Ref,
    odd_ref: Ref,
) -> None:
    """Applies an operation to a block, except that warps move colors along rows only, as `move` wants them."""
    number, factor = scalars_ref[0, 0], scalars_ref[0, 1]
    first_warp, first_blend, none = FIRST_OF_KIND
    start = pl.program_id(1) * ROWS

    @pl.when(number < first_warp)
    def look_up() -> None:
        channels = []
        for channel, values in enumerate(unpack(colors_ref[...])):
            table = jnp.broadcast_to(table_ref[channel : channel + 1], (ROWS, 256))
            channels.append(take_lanes(table, values))
        even_ref[...] = pack(channels)

    @pl.when((number >= first_warp) & (number < first_blend))
    def sample_sources() -> None:
        bottom = jnp.concatenate([colors_ref[1:], below_ref[:1]])
        even_ref[...], odd_ref[...] = _sample(size, _matrix(scalars_ref), start, colors_ref[...], bottom)

    @pl.when(number == COLOR)
    def blend_with_gray() -> None:
        channels = unpack(colors_ref[...])
        even_ref[...] = pack([blend(grayscale(channels), channel, factor) for channel in channels])

    @pl.when((number > COLOR) & (number < none))
    def blend_with_mean() -> None:
        row, column = _positions(colors_ref.shape, start)
        changed = interior(size, row, column)
        rows = unpack(jnp.concatenate([above_ref[-1:], colors_ref[...], below_ref[:1]]))
        channels = []
        for around, values in zip(rows, unpack(colors_ref[...]), strict=True):
            degenerate = jnp.where(changed, smooth(around), values.astype(jnp.float32))
            channels.append(blend(degenerate, values, factor))
        even_ref[...] = pack(channels)

    @pl.when(number == none)
    def copy() -> None:
        even_ref[...] = colors_ref[...]


def _sample(size: Size, matrix: Matrix, start: jax.Array, top: jax.Array, bottom: jax.Array) -> list[jax.Array]:
    """Colors for the even and for the odd row whose source begins in each row of `top`; `bottom` is a row below.

    Of the pixels of one column, those whose source begins in the same row are at most two, one above the other, because
    the sources of neighbors are at least 0.75 rows apart. So each parity has at most one.
    """
    height, width = size
    _, (yx, yy, y0) = matrix
    row, x = _positions(top.shape, start)
    # Their sources are at most 0.75 rows from row + 0.25 (the first row's begin half a row above it), so that they
    # themselves are at most one row from:
    middle = (row + 0.75 - y0 - yx * (x + 0.5)) * (1 / yy) - 0.5
    sampled = []
    for parity in (0, 1):
        y = 2 * jnp.floor((middle - parity) * 0.5 + 0.5) + parity
        from_x, from_y = source(matrix, x, y)
        left, right = split(from_x, width)
        columns = left, jnp.minimum(left + 1, width - 1)
        corners = [take_lanes(colors, column) for colors in (top, bottom) for column in columns]
        sampled.append(interpolate(corners, right, (from_y.clip(0, height - 1) - row).clip(0, 1)))
    return sampled


def move(size: Size, scalars_ref: Ref, filling_ref: Ref, even_ref: Ref, odd_ref: Ref, out_ref: Ref) -> None:
    """Moves colors that warps sampled along columns, to the rows that they are for."""
    first_warp, first_blend, _ = FIRST_OF_KIND
    start = pl.program_id(1) * LANES
    is_warp = (scalars_ref[0, 0] >= first_warp) & (scalars_ref[0, 0] < first_blend)

    @pl.when(is_warp)
    def move_colors() -> None:
        even, odd = even_ref[...].T, odd_ref[...].T
        x, y = _positions(even.shape, start)
        from_x, from_y = source(_matrix(scalars_ref), x, y)
        row, _ = split(from_y, size[0])
        is_even = jnp.floor(y * 0.5) * 2 == y
        moved = jnp.where(is_even, take_lanes(even, row), take_lanes(odd, row))
        out_ref[...] = jnp.where(inside(size, from_x, from_y), moved, filling_ref[0, 0]).T

    @pl.when(~is_warp)
    def copy() -> None:
        out_ref[...] = even_ref[...]


def take_lanes(values: jax.Array, columns: jax.Array) -> jax.Array:
    """values[r, columns[r, c]], of arrays whose rows are multiples of 128 values, within a kernel."""
    parts = []
    for start in range(0, columns.shape[1], LANES):
        part = columns[:, start : start + LANES]
        lanes, register = part & LANES - 1, part >> 7  # What `% LANES` and `// LANES` are.
        found = jnp.zeros_like(part)
        for i in range(values.shape[1] // LANES):
            taken = jnp.take_along_axis(values[:, i * LANES : (i + 1) * LANES], lanes, 1, mode="promise_in_bounds")
            found = jnp.where(register == i, taken, found)
        parts.append(found)
    return jnp.concatenate(parts, 1)


def _positions(shape: Sequence[int], start: jax.Array) -> list[jax.Array]:
    """The positions along both axes, of which the first begins at `start`, real."""
    first, second = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    return [(first + start).astype(jnp.float32), second.astype(jnp.float32)]


def _matrix(scalars_ref: Ref) -> Matrix:
    return [[scalars_ref[0, 2 + 3 * row + column] for column in range(3)] for row in range(2)]


def _is_any(scalars_ref: Ref, numbers: list[int]) -> jax.Array:
    return functools.reduce(jnp.logical_or, (scalars_ref[0, 0] == number for number in numbers))
