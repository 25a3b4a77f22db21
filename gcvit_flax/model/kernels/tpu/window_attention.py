"""Attention alone, between projections that XLA computes: for networks too wide for `attention_branch`."""

import functools

import jax
import jax.numpy as jnp

from gcvit_flax.model.kernels.tpu.attend import (
    Heads,
    attend,
    attend_gradients,
    bias_gradient_of,
    logits_of,
)
from gcvit_flax.model.kernels.tpu.attention_steps import (
    add_to_query_gradient,
    attention_cost,
    attention_inputs,
    fit_branch,
    load_query,
    logits_bytes,
)
from gcvit_flax.model.kernels.tpu.tiles import LANES, Tiles, Tree, make_tiles, padded_tokens, run_tiled


@functools.partial(jax.jit, static_argnames=("num_heads", "scale"))
def attention(
    qkv: jax.Array, query: jax.Array | None, bias: jax.Array, key_mask: jax.Array | None, num_heads: int, scale: float
) -> jax.Array:
    """softmax(scale * q k^T + bias) v, (B, n, T, C), by windows.

    `qkv` is (B, n, T, 3C), or k and v (B, n, T, 2C) if `query` (B, T, C) is shared by the windows of an image; `bias`
    is (h or 1, T, T), `key_mask` (n, T).
    """
    tiles, heads, groups = _sizes(qkv, query, num_heads, copies=5)
    inputs, specs = _blocks(tiles, heads, groups, qkv, query, bias, key_mask)

    def kernel(refs: Tree, outputs: Tree) -> None:
        logits = logits_of(heads, refs["bias"], refs.get("mask"), tiles.images)
        for lanes, group in heads.groups():
            q, k, v = _load(tiles, refs, lanes, scale)
            tiles.store(outputs["x"], attend(heads, group, logits, q, k, v), lanes)

    channels = groups * tiles.channels
    outputs = {"x": jax.ShapeDtypeStruct((*qkv.shape[:3], channels), qkv.dtype)}
    output_specs = {"x": tiles.window_spec(tiles.channels)}
    size = qkv.size // qkv.shape[-1] * channels
    cost = attention_cost(tiles, heads, groups, products=2, bytes_accessed=(qkv.size + size) * qkv.dtype.itemsize)
    return run_tiled(kernel, tiles, inputs, specs, outputs, output_specs, {}, cost, "window_attention", groups)["x"]


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
    tiles, heads, groups = _sizes(qkv, query, num_heads, copies=9)
    inputs, specs = _blocks(tiles, heads, groups, qkv, query, bias, key_mask)
    inputs["gradient"], specs["gradient"] = gradient, tiles.window_spec(tiles.channels)

    def kernel(refs: Tree, outputs: Tree) -> None:
        logits = logits_of(heads, refs["bias"], refs.get("mask"), tiles.images)
        for lanes, group in heads.groups():
            q, k, v = _load(tiles, refs, lanes, scale)
            gradient = tiles.load(refs["gradient"], lanes).astype(jnp.float32)
            of_query, *rest = attend_gradients(heads, group, logits, q, k, v, gradient, outputs["bias"])
            of_query *= scale
            if query is None:
                tiles.store(outputs["q"], of_query, lanes)
            else:
                add_to_query_gradient(tiles, outputs["query"], of_query, lanes)
            for name, value in zip(("k", "v"), rest, strict=True):
                tiles.store(outputs[name], value, lanes)

    outputs = {name: jax.ShapeDtypeStruct(gradient.shape, qkv.dtype) for name in _part_names(query)}
    output_specs = {name: specs["gradient"] for name in outputs}
    if query is not None:
        outputs["query"], output_specs["query"] = jax.ShapeDtypeStruct(query.shape, jnp.float32), specs["query"]
    size = 2 * qkv.size + gradient.size
    cost = attention_cost(tiles, heads, groups, products=5, bytes_accessed=size * qkv.dtype.itemsize)
    sums = {"bias": inputs["bias"].shape[1:]}
    name = "window_attention_gradients"
    results = run_tiled(kernel, tiles, inputs, specs, outputs, output_specs, sums, cost, name, groups)
    query_gradient = None if query is None else results["query"].astype(query.dtype)
    qkv_gradient = jnp.concatenate([results[name] for name in _part_names(query)], -1)
    return qkv_gradient, query_gradient, bias_gradient_of(heads, results["bias"], bias)


def _blocks(
    tiles: Tiles,
    heads: Heads,
    groups: int,
    qkv: jax.Array,
    query: jax.Array | None,
    bias: jax.Array,
    key_mask: jax.Array | None,
) -> tuple[Tree, Tree]:
    """What `attention` reads; queries, keys and values as blocks of the one array where registers are not divided."""
    inputs, specs = attention_inputs(tiles, heads, query, bias, key_mask, groups)
    names = _part_names(query)
    whole_registers = tiles.channels % LANES == 0
    arrays = [qkv] * len(names) if whole_registers else jnp.split(qkv, len(names), -1)
    for part, name in enumerate(names):
        inputs[name] = arrays[part]
        specs[name] = tiles.window_spec(tiles.channels, part * groups if whole_registers else 0)
    return inputs, specs


def _part_names(query: jax.Array | None) -> tuple[str, ...]:
    return ("q", "k", "v") if query is None else ("k", "v")


def fit_attention(qkv: jax.Array, query: jax.Array | None, num_heads: int) -> bool:
    """Whether `attention` takes them, a step of which has the bias of some heads only."""
    return fit_branch(qkv, _step_heads(num_heads, _channels(qkv, query)))


def _channels(qkv: jax.Array, query: jax.Array | None) -> int:
    return qkv.shape[-1] // len(_part_names(query))


def _step_heads(num_heads: int, channels: int) -> int:
    """The heads that fill the lanes of a register, or all where blocks of these would not be whole registers."""
    head_dim = channels // num_heads
    return LANES // head_dim if LANES % head_dim == 0 and channels % LANES == 0 else num_heads


def _sizes(qkv: jax.Array, query: jax.Array | None, num_heads: int, copies: int) -> tuple[Tiles, Heads, int]:
    """What a grid step takes, and the groups of heads, each of which has steps of its own."""
    channels = _channels(qkv, query)
    heads = Heads(_step_heads(num_heads, channels), channels // num_heads, padded_tokens(qkv.shape))
    window_bytes = copies * max(logits_bytes(heads), 4 * heads.padded * max(heads.channels, LANES))
    return make_tiles(qkv.shape, heads.channels, window_bytes), heads, num_heads // heads.number


def _load(tiles: Tiles, refs: Tree, lanes: slice, scale: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scaled queries, in float32, keys and values in these channels, (w, padded, lanes)."""
    q = tiles.load(refs["q"], lanes) if "q" in refs else load_query(tiles, refs, lanes)
    return q.astype(jnp.float32) * scale, tiles.load(refs["k"], lanes), tiles.load(refs["v"], lanes)
