"""Cutting arrays of windows (B, n, T, C) into the grid steps of a kernel, and running it over them."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES, SUBLANES = 128, 8
STEP_BYTES = 9 * 2**20  # What a grid step is reckoned to take of vector memory, of which a v4 core has 16 MiB.
WINDOWS_AXIS = 3  # Of the grid, the innermost: an image's windows.
_CORES = 2  # Of a v4 or v5p chip: they share the grid, and each sums gradients over its own share.

Tree = dict[str, Any]


class Tiles(NamedTuple):
    """What a grid step takes of windows (B, n, T, C): `windows` of each of `images`."""

    batch: int
    n: int
    tokens: int
    channels: int
    images: int
    windows: int

    @property
    def padded(self) -> int:
        """T rounded up to whole registers; the rows in between are zeros where they are loaded."""
        return padded_tokens((self.batch, self.n, self.tokens))

    def load(self, ref: Any, channels: slice = slice(None)) -> jax.Array:
        """A block (images, windows, T, C) as (windows of all images, padded, C)."""
        x = ref[..., channels]
        return jnp.pad(x.reshape(-1, *x.shape[-2:]), ((0, 0), (0, self.padded - self.tokens), (0, 0)))

    def store(self, ref: Any, x: jax.Array, channels: slice = slice(None)) -> None:
        """Writes what `load` reads."""
        x = x[:, : self.tokens].reshape(self.images, self.windows, self.tokens, -1)
        ref[..., channels] = x.astype(ref.dtype)

    def load_rows(self, ref: Any) -> jax.Array:
        """A block (images, windows, T, C) as float32 rows (windows of all images * padded, C)."""
        return self.load(ref).astype(jnp.float32).reshape(-1, self.channels)

    def windowed(self, rows: jax.Array) -> jax.Array:
        """Rows as (windows of all images, padded, C)."""
        return rows.reshape(-1, self.padded, rows.shape[-1])

    def times_scale(self, rows: jax.Array, ref: Any) -> jax.Array:
        """Rows times a scale (images, 1, 1) of each image."""
        return (rows.reshape(self.images, -1, rows.shape[-1]) * ref[...]).reshape(rows.shape)

    def window_spec(self, channels: int, first: int = 0) -> pl.BlockSpec:
        """The block of an array (B, n, T, C), `channels` for each group, `first` groups further."""
        return pl.BlockSpec((self.images, self.windows, self.tokens, channels), lambda g, i, j: (i, j, 0, first + g))

    def image_spec(self, *shape: int) -> pl.BlockSpec:
        """The block of an array (B, ..., C), of `shape` for each image and group."""
        return pl.BlockSpec((self.images, *shape), lambda g, i, j: (i, *(0 for _ in shape[1:]), g))


def padded_tokens(shape: tuple[int, ...]) -> int:
    """The T of windows (B, n, T, ...) rounded up to whole registers."""
    return -(-shape[2] // SUBLANES) * SUBLANES


def make_tiles(shape: tuple[int, ...], channels: int, window_bytes: int) -> Tiles:
    """As many windows of an array of `shape` (B, n, T, ...) a grid step as fit, if one takes `window_bytes`."""
    batch, n, tokens = shape[:3]
    fitting = max(1, STEP_BYTES // window_bytes)
    windows = largest_divisor(n, fitting)
    return Tiles(batch, n, tokens, channels, largest_divisor(batch, max(1, fitting // windows)), windows)


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` up to `limit`, which is at least 1."""
    return max(divisor for divisor in range(1, min(number, limit) + 1) if number % divisor == 0)


def whole_spec(x: jax.Array) -> pl.BlockSpec:
    """The block that is the whole of `x` in each step."""
    return pl.BlockSpec(x.shape, lambda *_: (0,) * x.ndim)


def run_tiled(
    kernel: Callable[[Tree, Tree], None],
    tiles: Tiles,
    inputs: Tree,
    specs: Tree,
    outputs: Tree,
    output_specs: Tree,
    sums: dict[str, tuple[int, int]],
    cost: pl.CostEstimate,
    name: str,
    groups: int = 1,
) -> Tree:
    """Runs `kernel` over the grid; `sums` are float32 outputs, zero before the first step, to which each step adds.

    Trees are dictionaries by name: arrays and blocks of inputs, shapes and blocks of outputs, shapes of sums. Where
    channels are cut into `groups`, each goes through all windows in turn, and has sums of its own: (groups, *shape).
    """
    steps, cores = tiles.batch // tiles.images, 1
    if sums and steps % _CORES == 0:
        cores = _CORES

    def share(spec: pl.BlockSpec) -> pl.BlockSpec:
        index_map: Callable[[Any, Any, Any], Any] = spec.index_map  # type: ignore[assignment]  # Ours all have one.
        return pl.BlockSpec(spec.block_shape, lambda core, g, i, j: index_map(g, core * (steps // cores) + i, j))

    def summing(refs: Tree, output_refs: Tree) -> None:
        start_sums(output_refs, sums, (pl.program_id(2) == 0) & (pl.program_id(WINDOWS_AXIS) == 0))
        kernel(refs, output_refs)

    def sum_spec(shape: tuple[int, int]) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, *shape), lambda core, g, i, j: (core, g, 0, 0))

    sum_shapes = {name: jax.ShapeDtypeStruct((cores, groups, *shape), jnp.float32) for name, shape in sums.items()}
    sum_specs = {name: sum_spec(shape) for name, shape in sums.items()}
    order = pltpu.GridDimensionSemantics.ARBITRARY if sums else pltpu.GridDimensionSemantics.PARALLEL
    results = pl.pallas_call(
        summing,
        grid=(cores, groups, steps // cores, tiles.n // tiles.windows),
        in_specs=[{key: share(spec) for key, spec in specs.items()}],
        out_specs={key: share(spec) for key, spec in output_specs.items()} | sum_specs,
        out_shape={key: varying_as(inputs, shape) for key, shape in (outputs | sum_shapes).items()},
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", order, order)),
        cost_estimate=cost,
        name=name,
    )(inputs)
    return results | {key: results[key].sum(0) for key in sums}


def start_sums(outputs: Tree, names: Iterable[str], first: Any) -> None:
    """Sets the outputs to which the steps of a kernel add to zero in the `first`."""

    @pl.when(first)
    def _() -> None:
        for name in names:
            outputs[name][...] = jnp.zeros_like(outputs[name])


def varying_as(inputs: Tree, shape: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """`shape` of a result that varies over the devices of a `jax.shard_map` as the inputs do."""
    axes = jax.typeof(jax.tree.leaves(inputs)[0]).manual_axis_type
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, manual_axis_type=axes)
