"""The branch x + scale * MLP(normalized x) of a block as one kernel."""

import functools
from typing import NamedTuple

import jax
from jax.experimental import pallas as pl

from gcvit_flax.model.kernels.tpu.rows import (
    normal_cdf_and_density,
    normalize,
    normalize_gradient,
    product,
)
from gcvit_flax.model.kernels.tpu.tiles import LANES, Tiles, Tree, make_tiles, padded_tokens, run_tiled, whole_spec


class MlpWeights(NamedTuple):
    """Kernels (C, F) and (F, C) in the type to compute in, biases (1, F) and (1, C) in float32."""

    kernel1: jax.Array
    bias1: jax.Array
    kernel2: jax.Array
    bias2: jax.Array


class MlpInputs(NamedTuple):
    """Windows `x` (B, n, T, C), and a `scale` (B, 1, 1) of each image."""

    x: jax.Array
    weights: MlpWeights
    scale: jax.Array


@functools.partial(jax.jit, static_argnames=("epsilon",))
def mlp_branch(inputs: MlpInputs, epsilon: float) -> jax.Array:
    """x + scale * (gelu(normalized x @ kernel1 + bias1) @ kernel2 + bias2), (B, n, T, C)."""
    x = inputs.x
    tiles = _tiles(inputs, copies=2)
    arrays, specs = _blocks(tiles, inputs)

    def kernel(refs: Tree, outputs: Tree) -> None:
        x = tiles.load_rows(refs["x"])
        normalized, _ = normalize(x, epsilon)
        dtype = refs["kernel1"].dtype
        hidden = product("rc,cf->rf", normalized.astype(dtype), refs["kernel1"][...]) + refs["bias1"][...]
        hidden = hidden * normal_cdf_and_density(hidden)[0]
        y = product("rf,fc->rc", hidden.astype(dtype), refs["kernel2"][...]) + refs["bias2"][...]
        tiles.store(outputs["x"], tiles.windowed(x + tiles.times_scale(y, refs["scale"])))

    outputs, output_specs = {"x": jax.ShapeDtypeStruct(x.shape, x.dtype)}, {"x": specs["x"]}
    cost = _cost(inputs, products=2)
    return run_tiled(kernel, tiles, arrays, specs, outputs, output_specs, {}, cost, "mlp_branch")["x"]


@functools.partial(jax.jit, static_argnames=("epsilon",))
def mlp_branch_gradients(inputs: MlpInputs, gradient: jax.Array, epsilon: float) -> tuple[jax.Array, MlpWeights]:
    """The gradients of `mlp_branch` with respect to x and, in float32, weights, for that of its result."""
    x = inputs.x
    tiles = _tiles(inputs, copies=6)
    arrays, specs = _blocks(tiles, inputs)
    arrays["gradient"], specs["gradient"] = gradient, specs["x"]

    def kernel(refs: Tree, outputs: Tree) -> None:
        x, gradient = tiles.load_rows(refs["x"]), tiles.load_rows(refs["gradient"])
        normalized, factor = normalize(x, epsilon)
        dtype = refs["kernel1"].dtype
        rounded = normalized.astype(dtype)
        hidden = product("rc,cf->rf", rounded, refs["kernel1"][...]) + refs["bias1"][...]
        cdf, density = normal_cdf_and_density(hidden)
        y_gradient = tiles.times_scale(gradient, refs["scale"])
        outputs["bias2"][...] += y_gradient.sum(0, keepdims=True)
        y_gradient = y_gradient.astype(dtype)
        outputs["kernel2"][...] += product("rf,rc->fc", (hidden * cdf).astype(dtype), y_gradient)
        hidden_gradient = product("rc,fc->rf", y_gradient, refs["kernel2"][...]) * (cdf + hidden * density)
        outputs["bias1"][...] += hidden_gradient.sum(0, keepdims=True)
        hidden_gradient = hidden_gradient.astype(dtype)
        outputs["kernel1"][...] += product("rc,rf->cf", rounded, hidden_gradient)
        normalized_gradient = product("rf,cf->rc", hidden_gradient, refs["kernel1"][...])
        x_gradient = gradient + normalize_gradient(normalized, factor, normalized_gradient)
        tiles.store(outputs["x"], tiles.windowed(x_gradient))

    outputs, output_specs = {"x": jax.ShapeDtypeStruct(x.shape, x.dtype)}, {"x": specs["x"]}
    sums = {name: value.shape for name, value in inputs.weights._asdict().items()}
    cost = _cost(inputs, products=5)
    results = run_tiled(kernel, tiles, arrays, specs, outputs, output_specs, sums, cost, "mlp_branch_gradients")
    return results["x"], MlpWeights(*(results[name][0] for name in MlpWeights._fields))


def _tiles(inputs: MlpInputs, copies: int) -> Tiles:
    x, hidden = inputs.x, inputs.weights.kernel1.shape[1]
    row_bytes = 4 * copies * (max(hidden, LANES) + 2 * max(x.shape[-1], LANES))
    return make_tiles(x.shape, x.shape[-1], padded_tokens(x.shape) * row_bytes)


def _blocks(tiles: Tiles, inputs: MlpInputs) -> tuple[Tree, Tree]:
    weights = inputs.weights._asdict()
    specs = {name: whole_spec(value) for name, value in weights.items()}
    specs |= {"x": tiles.window_spec(tiles.channels), "scale": tiles.image_spec(1, 1)}
    return {"x": inputs.x, "scale": inputs.scale, **weights}, specs


def _cost(inputs: MlpInputs, products: int) -> pl.CostEstimate:
    x = inputs.x
    hidden = x.size // x.shape[-1] * inputs.weights.kernel1.shape[1]
    passes = 2 if products == 2 else 3
    return pl.CostEstimate(
        flops=2 * products * hidden * x.shape[-1],
        transcendentals=2 * hidden,
        bytes_accessed=passes * x.size * x.dtype.itemsize,
    )
