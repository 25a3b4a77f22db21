"""The branch x + scale * Attention(normalized x) of a block as one kernel."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from gcvit_flax.model.kernels.tpu.attend import Heads, attend, attend_gradients, bias_gradient_of, logits_of
from gcvit_flax.model.kernels.tpu.attention_steps import (
    add_to_query_gradient,
    attention_cost,
    attention_inputs,
    load_query,
    logits_bytes,
)
from gcvit_flax.model.kernels.tpu.rows import normalize, normalize_gradient, product
from gcvit_flax.model.kernels.tpu.tiles import LANES, Tiles, Tree, make_tiles, padded_tokens, run_tiled, whole_spec


class AttentionWeights(NamedTuple):
    """Of the projections to queries (unless they are shared), keys and values, (C, 3C or 2C), and back, (C, C).

    Kernels are in the type to compute in, biases (1, 3C or 2C) and (1, C) in float32.
    """

    kernel: jax.Array
    bias: jax.Array
    out_kernel: jax.Array
    out_bias: jax.Array


class AttentionInputs(NamedTuple):
    """Windows `x` (B, n, T, C), a `scale` (B, 1, 1) of each image, and the attention's as in `window_attention`.

    They are the queries (B, T, C) if those are shared, a bias (h or 1, T, T) and a mask (n, T) of keys.
    """

    x: jax.Array
    query: jax.Array | None
    weights: AttentionWeights
    position_bias: jax.Array
    key_mask: jax.Array | None
    scale: jax.Array


class AttentionSettings(NamedTuple):
    """The number of heads, the factor of the logits, and what the norm adds to the variance."""

    num_heads: int
    qk_scale: float
    epsilon: float


@functools.partial(jax.jit, static_argnames=("settings",))
def attention_branch(inputs: AttentionInputs, settings: AttentionSettings) -> jax.Array:
    """x + scale * (attention(normalized x @ kernel + bias) @ out_kernel + out_bias), (B, n, T, C)."""
    x = inputs.x
    tiles, heads = _sizes(x, settings.num_heads, copies=4)
    arrays, specs = _blocks(tiles, heads, inputs)

    def kernel(refs: Tree, outputs: Tree) -> None:
        x = tiles.load_rows(refs["x"])
        normalized, _ = normalize(x, settings.epsilon)
        attended, _ = _attend(tiles, heads, refs, normalized.astype(refs["kernel"].dtype), settings.qk_scale)
        y = product("rc,cd->rd", attended, refs["out_kernel"][...]) + refs["out_bias"][...]
        tiles.store(outputs["x"], tiles.windowed(x + tiles.times_scale(y, refs["scale"])))

    outputs, output_specs = {"x": jax.ShapeDtypeStruct(x.shape, x.dtype)}, {"x": specs["x"]}
    cost = _cost(tiles, heads, x, inputs.weights, products=2)
    return run_tiled(kernel, tiles, arrays, specs, outputs, output_specs, {}, cost, "attention_branch")["x"]


@functools.partial(jax.jit, static_argnames=("settings",))
def attention_branch_gradients(
    inputs: AttentionInputs, gradient: jax.Array, settings: AttentionSettings
) -> tuple[tuple[jax.Array, jax.Array | None], AttentionWeights, jax.Array]:
    """The gradients of `attention_branch` with respect to (x, query), weights (float32) and position bias."""
    x, query, weights, position_bias, *_ = inputs
    tiles, heads = _sizes(x, settings.num_heads, copies=10)
    arrays, specs = _blocks(tiles, heads, inputs)
    arrays["gradient"], specs["gradient"] = gradient, specs["x"]

    def kernel(refs: Tree, outputs: Tree) -> None:
        x, gradient = tiles.load_rows(refs["x"]), tiles.load_rows(refs["gradient"])
        normalized, factor = normalize(x, settings.epsilon)
        dtype = refs["kernel"].dtype
        rounded = normalized.astype(dtype)
        attended, parts = _attend(tiles, heads, refs, rounded, settings.qk_scale)
        y_gradient = tiles.times_scale(gradient, refs["scale"])
        outputs["out_bias"][...] += y_gradient.sum(0, keepdims=True)
        y_gradient = y_gradient.astype(dtype)
        outputs["out_kernel"][...] += product("rc,rd->cd", attended, y_gradient)
        attended_gradient = tiles.windowed(product("rd,cd->rc", y_gradient, refs["out_kernel"][...]))
        projected = _projected_gradients(tiles, heads, refs, outputs, parts, attended_gradient, settings.qk_scale)
        normalized_gradient = jnp.float32(0)
        for part, value in enumerate(projected):
            columns = slice(part * tiles.channels, (part + 1) * tiles.channels)
            outputs["bias"][:, columns] += value.sum(0, keepdims=True)
            value = value.astype(dtype)
            outputs["kernel"][:, columns] += product("rc,rd->cd", rounded, value)
            normalized_gradient += product("rd,cd->rc", value, refs["kernel"][:, columns])
        x_gradient = gradient + normalize_gradient(normalized, factor, normalized_gradient)
        tiles.store(outputs["x"], tiles.windowed(x_gradient))

    outputs, output_specs = {"x": jax.ShapeDtypeStruct(x.shape, x.dtype)}, {"x": specs["x"]}
    if query is not None:
        outputs["query"] = jax.ShapeDtypeStruct(query.shape, jnp.float32)
        output_specs["query"] = specs["query"]
    sums = {name: value.shape for name, value in weights._asdict().items()} | {
        "position_bias": arrays["position_bias"].shape[1:]
    }
    cost = _cost(tiles, heads, x, weights, products=5)
    name = "attention_branch_gradients"
    results = run_tiled(kernel, tiles, arrays, specs, outputs, output_specs, sums, cost, name)
    query_gradient = None if query is None else results["query"].astype(query.dtype)
    weights_gradient = AttentionWeights(*(results[name][0] for name in AttentionWeights._fields))
    bias_gradient = bias_gradient_of(heads, results["position_bias"], position_bias)
    return (results["x"], query_gradient), weights_gradient, bias_gradient


def _attend(
    tiles: Tiles, heads: Heads, refs: Tree, rounded: jax.Array, qk_scale: float
) -> tuple[jax.Array, list[tuple[jax.Array, jax.Array, jax.Array]]]:
    """The heads' outputs as rows, and each group's scaled queries, keys and values."""
    dtype = rounded.dtype
    local = "query" not in refs
    projected = []
    for part in range(3 if local else 2):
        columns = slice(part * tiles.channels, (part + 1) * tiles.channels)
        projected.append(
            tiles.windowed(product("rc,cd->rd", rounded, refs["kernel"][:, columns]) + refs["bias"][:, columns])
        )
    *q, k, v = projected
    k, v = k.astype(dtype), v.astype(dtype)
    logits = logits_of(heads, refs["position_bias"], refs.get("mask"), tiles.images)
    outputs, parts = [], []
    for lanes, group in heads.groups():
        queries = q[0][..., lanes].astype(dtype) if local else load_query(tiles, refs, lanes)
        parts.append((queries.astype(jnp.float32) * qk_scale, k[..., lanes], v[..., lanes]))
        outputs.append(attend(heads, group, logits, *parts[-1]).astype(dtype))
    return jnp.concatenate(outputs, -1).reshape(rounded.shape), parts


def _projected_gradients(
    tiles: Tiles,
    heads: Heads,
    refs: Tree,
    outputs: Tree,
    parts: list[tuple[jax.Array, jax.Array, jax.Array]],
    attended_gradient: jax.Array,
    qk_scale: float,
) -> list[jax.Array]:
    """The gradients, as rows, of the projections to queries, unless they are shared, keys and values.

    Those of shared queries and of the position bias are added to their outputs.
    """
    logits = logits_of(heads, refs["position_bias"], refs.get("mask"), tiles.images)
    gradients = []
    for (lanes, group), (q, k, v) in zip(heads.groups(), parts, strict=True):
        gradient = attended_gradient[..., lanes]
        found = attend_gradients(heads, group, logits, q, k, v, gradient, outputs["position_bias"])
        of_query, *rest = found[0] * qk_scale, *found[1:]
        if "query" in refs:
            add_to_query_gradient(tiles, outputs["query"], of_query, lanes)
        else:
            rest = [of_query, *rest]
        gradients.append(rest)
    return [jnp.concatenate(part, -1).reshape(-1, tiles.channels) for part in zip(*gradients, strict=True)]


def _sizes(x: jax.Array, num_heads: int, copies: int) -> tuple[Tiles, Heads]:
    heads = Heads(num_heads, x.shape[-1] // num_heads, padded_tokens(x.shape))
    window_bytes = copies * (logits_bytes(heads) // 2 + 4 * heads.padded * max(x.shape[-1], LANES))
    return make_tiles(x.shape, x.shape[-1], window_bytes), heads


def _blocks(tiles: Tiles, heads: Heads, inputs: AttentionInputs) -> tuple[Tree, Tree]:
    arrays, specs = attention_inputs(tiles, heads, inputs.query, inputs.position_bias, inputs.key_mask)
    arrays["position_bias"], specs["position_bias"] = arrays.pop("bias"), specs.pop("bias")
    weights = inputs.weights._asdict()
    arrays |= {"x": inputs.x, "scale": inputs.scale, **weights}
    specs |= {name: whole_spec(value) for name, value in weights.items()}
    return arrays, specs | {"x": tiles.window_spec(tiles.channels), "scale": tiles.image_spec(1, 1)}


def _cost(tiles: Tiles, heads: Heads, x: jax.Array, weights: AttentionWeights, products: int) -> pl.CostEstimate:
    passes = 2 if products == 2 else 3
    cost = attention_cost(tiles, heads, 1, products, bytes_accessed=passes * x.size * x.dtype.itemsize)
    projections = x.size // tiles.channels * (weights.kernel.size + weights.out_kernel.size)
    flops = cost.flops + 2 * (1 if products == 2 else 3) * projections
    return pl.CostEstimate(flops=flops, transcendentals=cost.transcendentals, bytes_accessed=cost.bytes_accessed)
