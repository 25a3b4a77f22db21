"""Window attention with an array for each step of it, on CPUs and GPUs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from gcvit_flax.model.kernels.barrier import cpu_barrier
from gcvit_flax.model.kernels.custom_gradient import varying_alike
from gcvit_flax.model.kernels.precision import wide_type


class Saved(NamedTuple):
    """What the backward pass reads beside the query, bias and mask, in the order that suits the platform.

    For TPU kernels that is `qkv` (B, n, T, 3C or 2C) and the `output` (B, n, T, C), otherwise `parts`
    (B, n, 3h or 2h, T, d), the `mean` of the values (B, n, h, T, d), and the `weights` (B, n, h, T, T), exponentials
    before the division by `sums`. The others are zeros, which a compiled program has no use for. Each has a shape of
    its own: XLA:CPU takes ten times as long to write values in an order that is not that of their shape.
    """

    qkv: jax.Array
    output: jax.Array
    parts: jax.Array
    mean: jax.Array
    weights: jax.Array
    sums: jax.Array


def split_heads(
    qkv: Float[Array, "B n T channels"], query: Float[Array, "B T C"] | None, num_heads: int, scale: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scaled queries (B, n, h, T, d), or (B, h, T, d) of a shared `query`, and keys and values (B, n, h, T, d)."""
    return _queries_keys_values(_by_heads(qkv, query, num_heads), query, num_heads, scale)


def _by_heads(qkv: jax.Array, query: jax.Array | None, num_heads: int) -> jax.Array:
    parts = 3 if query is None else 2
    return rearrange(qkv, "B n T (heads d) -> B n heads T d", heads=parts * num_heads)


def _queries_keys_values(
    parts: jax.Array, query: jax.Array | None, num_heads: int, scale: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    *q, k, v = jnp.split(parts, parts.shape[2] // num_heads, axis=2)
    shared = [] if query is None else [rearrange(query, "B T (h d) -> B h T d", h=num_heads)]
    return (q or shared)[0] * jnp.asarray(scale, k.dtype), k, v


def forward_by_heads(
    qkv: jax.Array,
    query: jax.Array | None,
    bias: jax.Array,
    key_mask: jax.Array | None,
    *,
    num_heads: int,
    scale: float,
) -> Saved:
    """What the backward pass reads; `merge_heads` of its mean is the output of `windowed_attention`."""
    parts = _by_heads(qkv, query, num_heads)
    q, k, v = _queries_keys_values(parts, query, num_heads, scale)
    logits = jnp.einsum("Bnhqd,Bnhkd->Bnhqk", _for_windows(q, k), k, preferred_element_type=wide_type(k.dtype))
    logits += bias.astype(logits.dtype)
    if key_mask is not None:
        logits = jnp.where(key_mask[:, None, None, :], logits, -jnp.inf)
    weights = jnp.exp(logits - logits.max(-1, keepdims=True))
    sums = weights.sum(-1, keepdims=True)
    weights = weights.astype(v.dtype)
    mean = (jnp.einsum("Bnhqk,Bnhkd->Bnhqd", weights, v, preferred_element_type=sums.dtype) / sums).astype(v.dtype)
    batch, n, heads, tokens, width = mean.shape
    output = jnp.zeros((batch, n, tokens, heads * width), mean.dtype)
    return Saved(*varying_alike((jnp.zeros_like(qkv), output, parts, mean, weights, sums)))


def merge_heads(x: Float[Array, "B n h T d"]) -> Float[Array, "B n T C"]:
    """All heads' values of each token, as channels."""
    return rearrange(x, "B n h T d -> B n T (h d)")


def attention_by_heads(
    qkv: jax.Array,
    query: jax.Array | None,
    bias: jax.Array,
    key_mask: jax.Array | None,
    *,
    num_heads: int,
    scale: float,
) -> jax.Array:
    """The value of `windowed_attention`, whose gradient is JAX's own."""
    return merge_heads(forward_by_heads(qkv, query, bias, key_mask, num_heads=num_heads, scale=scale).mean)


def backward_by_heads(
    query: jax.Array | None,
    bias: jax.Array,
    key_mask: jax.Array | None,
    saved: Saved,
    gradient: jax.Array,
    *,
    num_heads: int,
    scale: float,
) -> tuple[jax.Array, jax.Array | None, jax.Array]:
    """The gradients with respect to qkv, query and bias."""
    q, k, v = _queries_keys_values(saved.parts, query, num_heads, scale)
    gradient = rearrange(gradient, "B n T (h d) -> B n h T d", h=num_heads)
    gradient = gradient / saved.sums  # With respect to the weighted sum before its normalization.
    # XLA:CPU would compute each sum again for every weight that reads it, and is slow at sums of products along rows.
    mean = cpu_barrier(cpu_barrier(gradient * saved.mean).sum(-1, keepdims=True))
    gradient = gradient.astype(v.dtype)
    v_gradient = jnp.einsum("Bnhqk,Bnhqd->Bnhkd", saved.weights, gradient)
    logits_gradient = saved.weights * (
        jnp.einsum("Bnhqd,Bnhkd->Bnhqk", gradient, v, preferred_element_type=mean.dtype) - mean
    )
    logits_gradient = cpu_barrier(logits_gradient)
    bias_gradient = _sum_of_windows(logits_gradient)
    if len(bias) == 1:
        bias_gradient = bias_gradient.sum(0, keepdims=True)
    logits_gradient = logits_gradient.astype(v.dtype)
    q_gradient = jnp.einsum("Bnhqk,Bnhkd->Bnhqd", logits_gradient, k) * jnp.asarray(scale, k.dtype)
    k_gradient = jnp.einsum("Bnhqk,Bnhqd->Bnhkd", logits_gradient, _for_windows(q, k))
    gradients = [k_gradient, v_gradient]
    query_gradient = None
    if query is None:
        gradients = [q_gradient, *gradients]
    else:
        query_gradient = rearrange(q_gradient.sum(1), "B h T d -> B T (h d)")
    qkv_gradient = merge_heads(jnp.concatenate(gradients, 2))
    return qkv_gradient, query_gradient, bias_gradient.astype(bias.dtype)


def _for_windows(q: jax.Array, k: jax.Array) -> jax.Array:
    """A shared query for each window: copies of it cost less than a product whose result has to be transposed."""
    return q if q.ndim == k.ndim else jnp.broadcast_to(q[:, None], k.shape)


def _sum_of_windows(x: Float[Array, "B n h T T"]) -> Float[Array, "h T T"]:
    """The sum over windows and images, of each image first, since images may lie on several devices.

    Images are added by a product with ones: XLA:CPU takes eight times as long for a sum of a few large arrays.
    """
    images = x.sum(1)
    ones = jnp.ones(len(images), x.dtype)
    total = jnp.matmul(ones, images.reshape(len(images), -1), precision=jax.lax.Precision.HIGHEST)
    return total.reshape(images.shape[1:])
