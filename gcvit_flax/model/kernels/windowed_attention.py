"""Attention inside windows, local or by the global query (paper, section 3.2, equation 5)."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gcvit_flax.model.rematerialize import save_for_backward


@jax.custom_vjp
def windowed_attention(
    q: Float[Array, "B n h T d"] | Float[Array, "B h T d"],
    k: Float[Array, "B n h T d"],
    v: Float[Array, "B n h T d"],
    bias: Float[Array, "h_or_1 T T"],
    key_mask: Bool[Array, "n T"] | None = None,
) -> Float[Array, "B n h T d"]:
    """softmax(q k^T + bias) v inside each window, with the softmax in float32.

    A `q` without windows is shared by all windows of an image; `key_mask` is False at padding.

    The softmax is normalized after the product with v: d divisions per token instead of T, which halves the time on
    CPUs. The backward pass is written out because autodiff's sum of the bias gradient over a few large arrays is slow.
    """
    return _forward(q, k, v, bias, key_mask)[0]


class _Saved(NamedTuple):
    """What the backward pass reads; `weights` are the exponentials before the division by `sums`."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    bias: jax.Array
    weights: jax.Array
    sums: jax.Array
    output: jax.Array


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array, key_mask: jax.Array | None
) -> tuple[jax.Array, _Saved]:
    q, k, v = save_for_backward((q, k, v))
    logits = jnp.einsum("Bnhqd,Bnhkd->Bnhqk", _for_windows(q, k), k, preferred_element_type=jnp.float32)
    logits += bias.astype(jnp.float32)
    if key_mask is not None:
        logits = jnp.where(key_mask[:, None, None, :], logits, -jnp.inf)
    weights = jnp.exp(logits - logits.max(-1, keepdims=True))
    sums = weights.sum(-1, keepdims=True)
    weights = weights.astype(v.dtype)
    x = jnp.einsum("Bnhqk,Bnhkd->Bnhqd", weights, v, preferred_element_type=jnp.float32) / sums
    weights, sums, x = save_for_backward((weights, sums, x.astype(v.dtype)))
    return x, _Saved(q, k, v, bias, weights, sums, x)


def _backward(saved: _Saved, gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, None]:
    q, k, v, bias, weights, sums, output = saved
    gradient = gradient / sums  # With respect to the weighted sum before its normalization.
    mean = (gradient * output).sum(-1, keepdims=True)
    gradient = gradient.astype(v.dtype)
    v_gradient = jnp.einsum("Bnhqk,Bnhqd->Bnhkd", weights, gradient)
    logits_gradient = weights * (
        jnp.einsum("Bnhqd,Bnhkd->Bnhqk", gradient, v, preferred_element_type=jnp.float32) - mean
    )
    logits_gradient = jax.lax.optimization_barrier(logits_gradient)
    bias_gradient = _sum_of_windows(logits_gradient)
    if len(bias) == 1:
        bias_gradient = bias_gradient.sum(0, keepdims=True)
    logits_gradient = logits_gradient.astype(v.dtype)
    q_gradient = jnp.einsum("Bnhqk,Bnhkd->Bnhqd", logits_gradient, k)
    k_gradient = jnp.einsum("Bnhqk,Bnhqd->Bnhkd", logits_gradient, _for_windows(q, k))
    if q.ndim == 4:
        q_gradient = q_gradient.sum(1)
    return q_gradient, k_gradient, v_gradient, bias_gradient.astype(bias.dtype), None


def _for_windows(q: jax.Array, k: jax.Array) -> jax.Array:
    """A shared query for each window: copies of it cost less than a product whose result has to be transposed."""
    return q if q.ndim == k.ndim else jnp.broadcast_to(q[:, None], k.shape)


def _sum_of_windows(x: Float[Array, "B n h T T"]) -> Float[Array, "h T T"]:
    """The sum over images and windows, by adding whole arrays eight at a time."""
    x = x.reshape(-1, *x.shape[2:])
    while len(x) > 8 and len(x) % 8 == 0:
        x = jax.lax.optimization_barrier(functools.reduce(jax.lax.add, x.reshape(8, -1, *x.shape[1:])))
    return functools.reduce(jax.lax.add, x) if len(x) <= 8 else x.sum(0)


windowed_attention.defvjp(_forward, _backward)
