"""RandAugment in Pallas kernels for TPUs, where XLA gathers and scatters one value at a time.

TPUs gather quickly within the 128 lanes of a vector register. Images are int32 colors (b, R, C), with rows and columns
appended up to multiples of 128; what is in those does not matter. Only what was drawn for an image is computed.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from gcvit_flax.config import Size
from gcvit_flax.training.augment.operations import BY_GRAY, BY_HISTOGRAM, COLOR, FIRST_OF_KIND, Operation, make_table
from gcvit_flax.training.augment.pillow_ops import blend, grayscale, interior, smooth
from gcvit_flax.training.augment.warp import Matrix, inside, interpolate, pack, source, split, unpack

LANES = 128
_ROWS = 32  # Of an image, in one step of a kernel's grid,
_HALO = 8  # and of those above and below that it sees.
Ref = Any


def rand_augment_in_lanes(
    planes: jax.Array, operations: Operation, fill: jax.Array, interpret: bool = False
) -> jax.Array:
    """Applies operations, arrays (b, n, ...), in turn to uint8 planes (b, 3, H, W); warps uncover `fill` (3,)."""
    height, width = planes.shape[2:]
    colors = pack(jnp.moveaxis(planes, 1, 0))
    colors = jnp.pad(colors, ((0, 0), (0, -height % LANES), (0, -width % LANES)))
    filling = pack(fill).reshape(1, 1)

    def layer(colors: jax.Array, drawn: Operation) -> tuple[jax.Array, None]:
        return _apply(colors, drawn, filling, (height, width), interpret), None

    colors, _ = jax.lax.scan(layer, colors, jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), operations))
    return jnp.stack(unpack(colors[:, :height, :width]), 1).astype(jnp.uint8)


def _apply(colors: jax.Array, drawn: Operation, filling: jax.Array, size: Size, interpret: bool) -> jax.Array:
    """Applies an operation (b, ...) to each image."""
    batch, rows, columns = colors.shape
    scalars = jnp.concatenate([drawn.number[:, None], drawn.factor[:, None], drawn.matrix.reshape(batch, 6)], 1)
    scalars = scalars[:, None]  # (b, 1, 8), of which a kernel sees the last two.
    of_image = pl.BlockSpec((None, 1, 8), lambda image, _: (image, 0, 0), memory_space=pltpu.SMEM)
    block = pl.BlockSpec((None, _ROWS, columns), lambda image, i: (image, i, 0))
    statistic = pl.BlockSpec((None, 3, LANES, LANES), lambda image, _: (image, 0, 0, 0))
    grays = pl.BlockSpec((None, 8, LANES), lambda image, _: (image, 0, 0))
    call = functools.partial(pl.pallas_call, interpret=interpret)
    pairs, gray_sums = call(
        functools.partial(_count, size),
        (
            jax.ShapeDtypeStruct((batch, 3, LANES, LANES), jnp.float32),
            jax.ShapeDtypeStruct((batch, 8, LANES), jnp.int32),
        ),
        grid=(batch, rows // _ROWS),
        in_specs=[of_image, block],
        out_specs=(statistic, grays),
        name="rand_augment_count",
    )(scalars, colors)
    counts = jnp.einsum("bchilj,ij->bchl", pairs.reshape(batch, 3, 16, 8, 16, 8), jnp.eye(8)).astype(jnp.int32)
    tables = jax.vmap(functools.partial(make_table, size=size))(
        drawn, counts.reshape(batch, 3, 256), gray_sums.sum((1, 2))
    )
    steps = _ROWS // _HALO
    above = pl.BlockSpec((None, _HALO, columns), lambda image, i: (image, jnp.maximum(i * steps - 1, 0), 0))
    below = pl.BlockSpec(
        (None, _HALO, columns), lambda image, i: (image, jnp.minimum((i + 1) * steps, rows // _HALO - 1), 0)
    )
    shape = jax.ShapeDtypeStruct(colors.shape, jnp.int32)
    even, odd = call(
        functools.partial(_operate, size),
        (shape, shape),
        grid=(batch, rows // _ROWS),
        in_specs=[of_image, pl.BlockSpec((None, 3, 256), lambda image, _: (image, 0, 0)), above, block, below],
        out_specs=(block, block),
        name="rand_augment_operate",
    )(scalars, tables.astype(jnp.int32), colors, colors, colors)
    block = pl.BlockSpec((None, rows, LANES), lambda image, i: (image, 0, i))
    return call(
        functools.partial(_move, size),
        shape,
        grid=(batch, columns // LANES),
        in_specs=[of_image, pl.BlockSpec(memory_space=pltpu.SMEM), block, block],
        out_specs=block,
        name="rand_augment_move",
    )(scalars, filling, even, odd)


def _count(size: Size, scalars_ref: Ref, colors_ref: Ref, pairs_ref: Ref, grays_ref: Ref) -> None:
    """Adds up a block's grays, and in how many pixels a value's high and low half byte occur together.

    The latter is a product of one-hot codes. It counts all pairs of eight rows, of which those of a row with itself are
    used, because the matrix unit has 128 columns.
    """

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        pairs_ref[...], grays_ref[...] = jnp.zeros_like(pairs_ref), jnp.zeros_like(grays_ref)

    row, column = _positions(colors_ref.shape, pl.program_id(1) * _ROWS)
    valid = inside(size, column, row)

    @pl.when(_is_any(scalars_ref, BY_HISTOGRAM))
    def _() -> None:
        for channel, values in enumerate(unpack(colors_ref[...])):
            values = jnp.where(valid, values, -1)  # No high half.
            for start in range(0, _ROWS, 8):
                high, low = map(_one_hot, (values[start : start + 8] >> 4, values[start : start + 8] & 15))
                pairs_ref[channel] += jax.lax.dot_general(
                    high, low, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
                )

    @pl.when(_is_any(scalars_ref, BY_GRAY))
    def _() -> None:
        grays = jnp.where(valid, grayscale(unpack(colors_ref[...])), 0)
        for start in range(0, _ROWS, 8):
            for lane in range(0, grays.shape[1], LANES):
                grays_ref[...] += grays[start : start + 8, lane : lane + LANES]


def _one_hot(halves: jax.Array) -> jax.Array:
    """bfloat16 (16 8, W) of half bytes (8, W)."""
    return jnp.concatenate([(halves == i).astype(jnp.float32) for i in range(16)]).astype(jnp.bfloat16)


def _operate(
    size: Size,
    scalars_ref: Ref,
    table_ref: Ref,
    above_ref: Ref,
    colors_ref: Ref,
    below_ref: Ref,
    even_ref: Ref,
    odd_ref: Ref,
) -> None:
    """Applies an operation to a block, except that warps move colors along rows only, as `_move` wants them."""
    number, factor = scalars_ref[0, 0], scalars_ref[0, 1]
    first_warp, first_blend, none = FIRST_OF_KIND
    start = pl.program_id(1) * _ROWS

    @pl.when(number < first_warp)
    def _() -> None:
        channels = []
        for channel, values in enumerate(unpack(colors_ref[...])):
            table = jnp.broadcast_to(table_ref[channel : channel + 1], (_ROWS, 256))
            channels.append(take_lanes(table, values))
        even_ref[...] = pack(channels)

    @pl.when((number >= first_warp) & (number < first_blend))
    def _() -> None:
        bottom = jnp.concatenate([colors_ref[1:], below_ref[:1]])
        even_ref[...], odd_ref[...] = _sample(size, _matrix(scalars_ref), start, colors_ref[...], bottom)

    @pl.when(number == COLOR)
    def _() -> None:
        channels = unpack(colors_ref[...])
        even_ref[...] = pack([blend(grayscale(channels), channel, factor) for channel in channels])

    @pl.when((number > COLOR) & (number < none))
    def _() -> None:
        row, column = _positions(colors_ref.shape, start)
        changed = interior(size, row, column)
        rows = unpack(jnp.concatenate([above_ref[-1:], colors_ref[...], below_ref[:1]]))
        channels = []
        for around, values in zip(rows, unpack(colors_ref[...]), strict=True):
            degenerate = jnp.where(changed, smooth(around), values.astype(jnp.float32))
            channels.append(blend(degenerate, values, factor))
        even_ref[...] = pack(channels)

    @pl.when(number == none)
    def _() -> None:
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


def _move(size: Size, scalars_ref: Ref, filling_ref: Ref, even_ref: Ref, odd_ref: Ref, out_ref: Ref) -> None:
    """Moves colors that warps sampled along columns, to the rows that they are for."""
    first_warp, first_blend, _ = FIRST_OF_KIND
    start = pl.program_id(1) * LANES
    is_warp = (scalars_ref[0, 0] >= first_warp) & (scalars_ref[0, 0] < first_blend)

    @pl.when(is_warp)
    def _() -> None:
        even, odd = even_ref[...].T, odd_ref[...].T
        x, y = _positions(even.shape, start)
        from_x, from_y = source(_matrix(scalars_ref), x, y)
        row, _ = split(from_y, size[0])
        is_even = jnp.floor(y * 0.5) * 2 == y
        moved = jnp.where(is_even, take_lanes(even, row), take_lanes(odd, row))
        out_ref[...] = jnp.where(inside(size, from_x, from_y), moved, filling_ref[0, 0]).T

    @pl.when(~is_warp)
    def _() -> None:
        out_ref[...] = even_ref[...]


def take_lanes(values: jax.Array, columns: jax.Array) -> jax.Array:
    """values[r, columns[r, c]], of arrays whose rows are multiples of 128 values, within a kernel."""
    parts = []
    for start in range(0, columns.shape[1], LANES):
        part = columns[:, start : start + LANES]
        lanes, register = part & LANES - 1, part >> 7  # What `% LANES` and `// LANES` are.
        found = None
        for i in range(values.shape[1] // LANES):
            of_register = values[:, i * LANES : (i + 1) * LANES]
            taken = jnp.take_along_axis(of_register, lanes, 1, mode="promise_in_bounds")
            found = taken if found is None else jnp.where(register == i, taken, found)
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
