"""Cutting maps with the images along the lanes, (H, W, C, B), into the grid steps of a kernel."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from gcvit_flax.model.kernels.tpu.tiles import LANES, STEP_BYTES, Tree, largest_divisor, start_sums, varying_as

HALO = 2  # Columns beyond a strip that a 3x3 convolution reads, one on each side.


class Strips(NamedTuple):
    """What a grid step takes of a map (H, W, C, B): `columns` of a row, or with a halo two more, of `images`.

    The grid is (B / images, W / columns, rows), the rows in order.
    """

    height: int
    width: int
    channels: int
    batch: int
    images: int
    columns: int

    def spec(self, lag: int = 0) -> pl.BlockSpec:
        """The block (1, columns, C, images) of the row `lag` before the grid's."""
        block = 1, self.columns, self.channels, self.images
        return pl.BlockSpec(block, lambda b, strip, row: (self._clip(row - lag), strip, 0, self._group(b)))

    def halo_spec(self) -> pl.BlockSpec:
        """The block of `load`; those at the sides of the map are moved to lie within it."""
        sizes = 1, min(self.columns + HALO, self.width), self.channels, self.images
        block = tuple(map(pl.Element, sizes))
        return pl.BlockSpec(
            block, lambda b, strip, row: (self._clip(row), self._first(strip), 0, self._group(b) * self.images)
        )

    def load(self, ref: Any, column: Any) -> jax.Array:
        """A column (C, images) of a block with a halo, counted from the one before the strip."""
        strip = pl.program_id(1)
        return ref[0, jnp.clip(strip * self.columns + column - 1, 0, self.width - 1) - self._first(strip)]

    def mask(self, row: Any, column: Any, values: jax.Array) -> jax.Array:
        """`values`, which stand at such a column of a row, or zeros where that is outside of the map."""
        place = pl.program_id(1) * self.columns + column - 1
        return jnp.where((row < self.height) & (place >= 0) & (place < self.width), values, 0)

    def image_spec(self) -> pl.BlockSpec:
        """The block (C, images) of an array (C, B)."""
        return pl.BlockSpec((self.channels, self.images), lambda b, strip, row: (0, self._group(b)))

    def _group(self, b: Any) -> Any:
        """`b`, or a 0 that the compiler knows."""
        return b if self.images < self.batch else 0

    def _clip(self, row: Any) -> Any:
        return jnp.clip(row, 0, self.height - 1)

    def _first(self, strip: Any) -> Any:
        return jnp.clip(strip * self.columns - 1, 0, max(0, self.width - self.columns - HALO))


def make_strips(x: jax.Array, wide: int, narrow: int) -> Strips:
    """Strips of maps like `x` (H, W, C, B), as wide as so many arrays of float32 and of the type of `x` fit."""
    height, width, channels, batch = x.shape
    column_bytes = channels * LANES * (4 * wide + x.dtype.itemsize * narrow)
    columns = largest_divisor(width, max(1, STEP_BYTES // column_bytes))
    return Strips(height, width, channels, batch, min(batch, LANES), columns)


def run_strips(
    kernel: Callable[[Tree, Tree, Tree], None],
    strips: Strips,
    lag: int,
    inputs: Tree,
    specs: Tree,
    outputs: Tree,
    output_specs: Tree,
    sums: Tree,
    scratch: Tree,
    cost: pl.CostEstimate,
    name: str,
) -> Tree:
    """Runs `kernel` over the grid, by `lag` rows further than the map.

    Trees are dictionaries by name: arrays and blocks of inputs, shapes and blocks of outputs, shapes and types of
    scratch. `sums` are shapes of float32 outputs, zero before a strip's first row, to which each row adds; they come
    as (B / images, strips, *shape).
    """
    groups = strips.batch // strips.images, strips.width // strips.columns

    def summing(refs: Tree, output_refs: Tree, scratch_refs: Tree) -> None:
        start_sums(output_refs, sums, pl.program_id(2) == 0)
        kernel(refs, output_refs, scratch_refs)

    sum_shapes = {name: jax.ShapeDtypeStruct((*groups, *shape), jnp.float32) for name, shape in sums.items()}
    return pl.pallas_call(
        summing,
        grid=(*groups, strips.height + lag),
        in_specs=[specs],
        out_specs=output_specs | {name: _sum_spec(shape) for name, shape in sums.items()},
        out_shape={key: varying_as(inputs, shape) for key, shape in (outputs | sum_shapes).items()},
        scratch_shapes=[{name: pltpu.VMEM(*shape) for name, shape in scratch.items()}],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        cost_estimate=cost,
        name=name,
    )(inputs)


def cost_of(x: jax.Array, products: int, convolutions: int, passes: int) -> pl.CostEstimate:
    """Of so many products with (C, C), depthwise 3x3 convolutions, and readings or writings of maps like `x`."""
    return pl.CostEstimate(
        flops=2 * x.size * (products * x.shape[2] + 9 * convolutions),
        transcendentals=2 * x.size,
        bytes_accessed=passes * x.size * x.dtype.itemsize,
    )


def _sum_spec(shape: tuple[int, ...]) -> pl.BlockSpec:
    return pl.BlockSpec((None, None, *shape), lambda b, strip, row: (b, strip, *(0 for _ in shape)))


def over_columns(first: int, last: int, step: Callable[[Any, Any], Any], initial: Any = None) -> Any:
    """Runs `step` (column, carried) for columns from `first` to before `last`, side by side in the schedule."""
    return jax.lax.fori_loop(first, last, step, initial, unroll=True)
