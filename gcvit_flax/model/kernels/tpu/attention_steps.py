"""What a grid step of attention reads, adds and costs, alone or within its branch."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from gcvit_flax.model.kernels.tpu.attend import MASKED, STACKED_LANES, Heads, transposed_bias
from gcvit_flax.model.kernels.tpu.tiles import WINDOWS_AXIS, Tiles, Tree, padded_tokens

_LARGEST_BIAS_BYTES = 3 * 2**19  # That of gcvit_xxtiny's third level takes 1.3 MB.


def attention_inputs(
    tiles: Tiles,
    heads: Heads,
    query: jax.Array | None,
    bias: jax.Array,
    key_mask: jax.Array | None,
    groups: int = 1,
) -> tuple[Tree, Tree]:
    """What attention reads beside its windows, and its blocks."""
    inputs: Tree = {"bias": transposed_bias(heads, bias, groups)}
    specs: Tree = {"bias": pl.BlockSpec((None, *inputs["bias"].shape[1:]), lambda g, i, j: (g, 0, 0))}
    if query is not None:
        inputs["query"], specs["query"] = query, tiles.image_spec(tiles.tokens, tiles.channels)
    if key_mask is not None:
        mask = jnp.where(key_mask, 0.0, MASKED).astype(jnp.float32)[..., None]
        inputs["mask"] = jnp.pad(mask, ((0, 0), (0, tiles.padded - tiles.tokens), (0, 0)))
        specs["mask"] = pl.BlockSpec((tiles.windows, tiles.padded, 1), lambda g, i, j: (j, 0, 0))
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
    first = pl.program_id(WINDOWS_AXIS) == 0  # Of the image's steps: what is there is of no image yet.
    ref[..., lanes] = jnp.where(first, images, ref[..., lanes] + images)


def attention_cost(tiles: Tiles, heads: Heads, groups: int, products: int, bytes_accessed: int) -> pl.CostEstimate:
    """Of `products` of T x T x d for each window and head."""
    logits = tiles.batch * tiles.n * groups * heads.number * heads.padded**2
    flops = 2 * products * logits * heads.head_dim
    return pl.CostEstimate(flops=flops, transcendentals=logits, bytes_accessed=bytes_accessed)


def fit_branch(windows: jax.Array, num_heads: int) -> bool:
    """Whether the kernel of a whole branch takes arrays like `windows` (B, n, T, ...): their number, type and bias.

    The number of images is a symbol in a program that is exported for any; the bias, and the sum of its gradient, must
    fit into vector memory beside all else.
    """
    is_known = isinstance(windows.shape[0], int)
    bias_bytes = 4 * num_heads * padded_tokens(windows.shape) ** 2
    return is_known and windows.dtype in (jnp.float32, jnp.bfloat16) and bias_bytes <= _LARGEST_BIAS_BYTES


def logits_bytes(heads: Heads) -> int:
    """A float32 array of a stack's logits in one window."""
    return 4 * heads.padded * min(STACKED_LANES, heads.number * heads.padded)
