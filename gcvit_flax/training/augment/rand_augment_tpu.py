"""RandAugment on a batch for TPUs, in Pallas kernels: XLA would gather and scatter one value at a time there.

Images are int32 colors (b, R, C), with rows and columns appended up to multiples of 128; what is in those does not
matter. Only what was drawn for an image is computed.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from gcvit_flax.config import Size
from gcvit_flax.training.augment.operations import Operation, make_table
from gcvit_flax.training.augment.rand_augment_kernels import HALO, LANES, ROWS, count, move, operate
from gcvit_flax.training.augment.warp import pack, unpack

_SCALARS = pl.BlockSpec((None, 1, 8), lambda image, _: (image, 0, 0), memory_space=pltpu.SMEM)


def rand_augment_in_lanes(
    planes: jax.Array, operations: Operation, fill: jax.Array, interpret: bool = False
) -> jax.Array:
    """Applies operations, arrays (b, n, ...), in turn to uint8 planes (b, 3, H, W); warps uncover `fill` (3,)."""
    height, width = planes.shape[2:]
    colors = pack(jnp.moveaxis(planes, 1, 0))
    colors = jnp.pad(colors, ((0, 0), (0, -height % LANES), (0, -width % LANES)))

    def layer(colors: jax.Array, drawn: Operation) -> tuple[jax.Array, None]:
        numbers = jnp.stack([drawn.number.astype(jnp.float32), drawn.factor], 1)
        scalars = jnp.concatenate([numbers, drawn.matrix.reshape(-1, 6)], 1)[:, None]  # (b, 1, 8)
        tables = _make_tables(colors, scalars, drawn, (height, width), interpret)
        return _operate(colors, scalars, tables, pack(fill), (height, width), interpret), None

    colors, _ = jax.lax.scan(layer, colors, jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), operations))
    return jnp.stack(unpack(colors[:, :height, :width]), 1).astype(jnp.uint8)


def _make_tables(colors: jax.Array, scalars: jax.Array, drawn: Operation, size: Size, interpret: bool) -> jax.Array:
    """The tables of look-ups: int32 (b, 3, 256)."""
    batch, rows, columns = colors.shape
    pairs, grays = pl.pallas_call(
        functools.partial(count, size),
        (
            jax.ShapeDtypeStruct((batch, 3, LANES, LANES), jnp.float32),
            jax.ShapeDtypeStruct((batch, 8, LANES), jnp.int32),
        ),
        grid=(batch, rows // ROWS),
        in_specs=[_SCALARS, _block_of_rows(columns)],
        out_specs=(
            pl.BlockSpec((None, 3, LANES, LANES), lambda image, _: (image, 0, 0, 0)),
            pl.BlockSpec((None, 8, LANES), lambda image, _: (image, 0, 0)),
        ),
        interpret=interpret,
        name="rand_augment_count",
    )(scalars, colors)
    # Each half byte is there for eight rows; only a row's pairs with itself count.
    row = jnp.arange(LANES) % 8
    counts = jnp.where(row[:, None] == row, pairs, 0).reshape(batch, 3, 16, 8, LANES).sum(3)
    counts = counts.reshape(batch, 3, 256, 8).sum(-1).astype(jnp.int32)
    table = jax.vmap(functools.partial(make_table, size=size))
    return table(drawn, counts, grays.sum((1, 2))).astype(jnp.int32)


def _operate(
    colors: jax.Array, scalars: jax.Array, tables: jax.Array, fill: jax.Array, size: Size, interpret: bool
) -> jax.Array:
    """Applies each image's operation."""
    batch, rows, columns = colors.shape
    block, steps = _block_of_rows(columns), ROWS // HALO
    above, below = (
        pl.BlockSpec((None, HALO, columns), index)
        for index in (
            lambda image, i: (image, jnp.maximum(i * steps - 1, 0), 0),
            lambda image, i: (image, jnp.minimum((i + 1) * steps, rows // HALO - 1), 0),
        )
    )
    shape = jax.ShapeDtypeStruct(colors.shape, jnp.int32)
    even, odd = pl.pallas_call(
        functools.partial(operate, size),
        (shape, shape),
        grid=(batch, rows // ROWS),
        in_specs=[_SCALARS, pl.BlockSpec((None, 3, 256), lambda image, _: (image, 0, 0)), above, block, below],
        out_specs=(block, block),
        interpret=interpret,
        name="rand_augment_operate",
    )(scalars, tables, colors, colors, colors)
    block = pl.BlockSpec((None, rows, LANES), lambda image, i: (image, 0, i))
    return pl.pallas_call(
        functools.partial(move, size),
        shape,
        grid=(batch, columns // LANES),
        in_specs=[_SCALARS, pl.BlockSpec(memory_space=pltpu.SMEM), block, block],
        out_specs=block,
        interpret=interpret,
        name="rand_augment_move",
    )(scalars, fill.reshape(1, 1), even, odd)


def _block_of_rows(columns: int) -> pl.BlockSpec:
    return pl.BlockSpec((None, ROWS, columns), lambda image, i: (image, i, 0))
