"""Attention alone, between projections that XLA computes: for networks too wide for `attention_branch`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from gcvit_flax.model.kernels.tpu.attend import (
    MASKED,
    STACKED_LANES,
    Heads,
    attend,
    attend_gradients,
    bias_gradient_of,
    logits_of,
    transposed_bias,
)
from gcvit_flax.model.kernels.tpu.tiles import LANES, Tiles, Tree, make_tiles, padded_tokens, run_tiled, whole_spec

_LARGEST_BIAS_BYTES = 3 * 2**19  # That of gcvit_xxtiny's third level takes 1.3 MB.


@functools.partial(jax.jit, static_argnames=("num_heads", "scale"))
def attention(
    qkv: jax.Array, query: jax.Array | None, bias: jax.Array, key_mask: jax.Array | None, num_heads: int, scale: float
) -> jax.Array:
    """softmax(scale * q k^T + bias) v, (B, n, T, C), by windows.

    `qkv` is (B, n, T, 3C), or k and v (B, n, T, 2C) if `query` (B, T, C) is shared by the windows of an image; `bias`
    is (h or 1, T, T), `key_mask` (n, T).
    """
    tiles, heads = _sizes(qkv, query, num_heads, copies=5)
    inputs, specs = attention_inputs(tiles, heads, query, bias, key_mask)
    inputs["qkv"], specs["qkv"] = qkv, tiles.window_spec(qkv.shape[-1])

    def kernel(refs: Tree, outputs: Tree) -> None:
        logits = logits_of(heads, refs["bias"], refs.get("mask"), tiles.images)
        for lanes, group in heads.groups():
            q, k, v = _load(tiles, refs, lanes, scale)
            tiles.store(outputs["x"], attend(heads, group, logits, q, k, v), lanes)

    outputs = {"x": jax.ShapeDtypeStruct((*qkv.shape[:3], tiles.channels), qkv.dtype)}
    output_specs = {"x": tiles.window_spec(tiles.channels)}
    cost = attention_cost(tiles, heads, products=2, bytes_accessed=(qkv.size + qkv.size // 3) * qkv.dtype.itemsize)
    return run_tiled(kernel, tiles, inputs, specs, outputs, output_specs, {}, cost, "window_attention")["x"]


@functools.partial(jax.jit, static_argnames=("num_heads", "scale"))
def attention_gradients(
    qkv: jax.Array,
    query: jax.Array | None,
    bias: jax.Array,
    key_mask: jax.Array | None,
    gradient: jax.Array,
    num_heads: int,
    scale: float,
) -> tuple[jax.Array, jax.Array | None, jax.Array]:
    """The gradients of `attention` with respect to `qkv`, `query` and `bias`, for that of its result."""
    tiles, heads = _sizes(qkv, query, num_heads, copies=9)
    inputs, specs = attention_inputs(tiles, heads, query, bias, key_mask)
    inputs |= {"qkv": qkv, "gradient": gradient}
    specs |= {"qkv": tiles.window_spec(qkv.shape[-1]), "gradient": tiles.window_spec(tiles.channels)}

    def kernel(refs: Tree, outputs: Tree) -> None:
        logits = logits_of(heads, refs["bias"], refs.get("mask"), tiles.images)
        for lanes, group in heads.groups():
            q, k, v = _load(tiles, refs, lanes, scale)
            gradient = tiles.load(refs["gradient"], lanes).astype(jnp.float32)
            parts = attend_gradients(heads, group, logits, q, k, v, gradient, outputs["bias"])
            of_query, *rest = parts[0] * scale, *parts[1:]
            if "query" in refs:
                add_to_query_gradient(tiles, outputs["query"], of_query, lanes)
            else:
                rest = [of_query, *rest]
            for part, value in enumerate(rest):
                tiles.store(outputs["qkv"], value, _part(tiles, part, lanes))

    outputs = {"qkv": jax.ShapeDtypeStruct(qkv.shape, qkv.dtype)}
    output_specs = {"qkv": tiles.window_spec(qkv.shape[-1])}
    if query is not None:
        outputs["query"] = jax.ShapeDtypeStruct(query.shape, jnp.float32)
        output_specs["query"] = tiles.image_spec(*query.shape[1:])
    cost = attention_cost(tiles, heads, products=5, bytes_accessed=(2 * qkv.size + qkv.size // 3) * qkv.dtype.itemsize)
    sums = {"bias": inputs["bias"].shape}
    name = "window_attention_gradients"
    results = run_tiled(kernel, tiles, inputs, specs, outputs, output_specs, sums, cost, name)
    query_gradient = None if query is None else results["query"].astype(query.dtype)
    return results["qkv"], query_gradient, bias_gradient_of(heads, results["bias"], bias)


def attention_inputs(
    tiles: Tiles, heads: Heads, query: jax.Array | None, bias: jax.Array, key_mask: jax.Array | None
) -> tuple[Tree, Tree]:
    """What attention reads beside its windows, and its blocks."""
    inputs: Tree = {"bias": transposed_bias(heads, bias)}
    specs: Tree = {"bias": whole_spec(inputs["bias"])}
    if query is not None:
        inputs["query"], specs["query"] = query, tiles.image_spec(*query.shape[1:])
    if key_mask is not None:
        mask = jnp.where(key_mask, 0.0, MASKED).astype(jnp.float32)[..., None]
        inputs["mask"] = jnp.pad(mask, ((0, 0), (0, tiles.padded - tiles.tokens), (0, 0)))
        specs["mask"] = pl.BlockSpec((tiles.windows, tiles.padded, 1), lambda i, j: (j, 0, 0))
    return inputs, specs


def load_query(tiles: Tiles, refs: Tree, lanes: slice) -> jax.Array:
    """The shared queries, once for each window of the step: (w, padded, lanes)."""
    query = refs["query"][..., lanes]
    shape = (tiles.images, tiles.windows, *query.shape[1:])
    x = jnp.broadcast_to(query[:, None], shape).reshape(-1, *query.shape[1:])
    return jnp.pad(x, ((0, 0), (0, tiles.padded - tiles.tokens), (0, 0)))


def add_to_query_gradient(tiles: Tiles, ref: Any, gradient: jax.Array, lanes: slice) -> None:
    """Adds the gradient of shared queries in the windows of this step to those of the image's earlier steps."""
    images = gradient[:, : tiles.tokens].reshape(tiles.images, tiles.windows, tiles.tokens, -1).sum(1)
    first = pl.program_id(2) == 0  # Of the image's steps: what is there is of no image yet.
    ref[..., lanes] = jnp.where(first, images, ref[..., lanes] + images)


def attention_cost(tiles: Tiles, heads: Heads, products: int, bytes_accessed: int) -> pl.CostEstimate:
    """Of `products` of T x T x d for each window and head."""
    logits = tiles.batch * tiles.n * heads.number * heads.padded**2
    flops = 2 * products * logits * heads.head_dim
    return pl.CostEstimate(flops=flops, transcendentals=logits, bytes_accessed=bytes_accessed)


def fit_kernels(windows: jax.Array, num_heads: int) -> bool:
    """Whether kernels take arrays like `windows` (B, n, T, ...): their number, type and position bias.

    The number of images is a symbol in a program that is exported for any; the bias, and the sum of its gradient, must
    fit into vector memory beside all else.
    """
    is_known = isinstance(windows.shape[0], int)
    bias_bytes = 4 * num_heads * padded_tokens(windows.shape) ** 2
    return is_known and windows.dtype in (jnp.float32, jnp.bfloat16) and bias_bytes <= _LARGEST_BIAS_BYTES


def logits_bytes(heads: Heads) -> int:
    """A float32 array of a stack's logits in one window."""
    return 4 * heads.padded * min(STACKED_LANES, heads.number * heads.padded)


def _sizes(qkv: jax.Array, query: jax.Array | None, num_heads: int, copies: int) -> tuple[Tiles, Heads]:
    channels = qkv.shape[-1] // (3 if query is None else 2)
    heads = Heads(num_heads, channels // num_heads, padded_tokens(qkv.shape))
    window_bytes = copies * max(logits_bytes(heads), 4 * heads.padded * max(channels, LANES))
    return make_tiles(qkv.shape, channels, window_bytes), heads


def _load(tiles: Tiles, refs: Tree, lanes: slice, scale: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scaled queries, in float32, keys and values in these channels, (w, padded, lanes)."""
    if "query" in refs:
        q, first = load_query(tiles, refs, lanes), 0
    else:
        q, first = tiles.load(refs["qkv"], lanes), 1
    k, v = (tiles.load(refs["qkv"], _part(tiles, first + part, lanes)) for part in range(2))
    return q.astype(jnp.float32) * scale, k, v


def _part(tiles: Tiles, part: int, lanes: slice) -> slice:
    return slice(part * tiles.channels + lanes.start, part * tiles.channels + lanes.stop)
