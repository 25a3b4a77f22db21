"""Attention inside windows, local or by the global query (paper, section 3.2, equation 5)."""

import functools

import jax
import jax.numpy as jnp

from gcvit_flax.model.rematerialize import save_for_backward


@jax.custom_vjp
def windowed_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array, key_mask: jax.Array | None = None
) -> jax.Array:
    """softmax(q k^T + bias) v inside each window, with the softmax in float32.

    q is (B, n, h, T, d), or (B, h, T, d) for a query that all windows of an image share; k and v are (B, n, h, T, d),
    bias is (h or 1, T, T), key_mask (n, T) is False at padding. Returns like v.

    Divided by the softmax's sums after the product with v, on d numbers a token instead of T: core of level 0 at batch
    8 on two CPU cores 12.4 to 5.8 ms, of level 2 12.3 to 7.9 ms. The backward pass is written out, because autodiff's
    sums the bias gradients over few large arrays badly: 12 to under 1 ms a block of level 2.
    """
    return _forward(q, k, v, bias, key_mask)[0]


def _forward(q, k, v, bias, key_mask):
    logits = jnp.einsum("Bnhqd,Bnhkd->Bnhqk", _for_windows(q, k), k, preferred_element_type=jnp.float32)
    logits += bias.astype(jnp.float32)
    if key_mask is not None:
        logits = jnp.where(key_mask[:, None, None, :], logits, -jnp.inf)
    weights = jnp.exp(logits - logits.max(-1, keepdims=True))
    sums = weights.sum(-1, keepdims=True)
    weights = weights.astype(v.dtype)
    x = jnp.einsum("Bnhqk,Bnhkd->Bnhqd", weights, v, preferred_element_type=jnp.float32) / sums
    q, k, v, weights, sums, x = save_for_backward((q, k, v, weights, sums, x.astype(v.dtype)))
    return x, (q, k, v, bias, weights, sums, x)


def _backward(saved, gradient):
    q, k, v, bias, weights, sums, x = saved
    gradient = gradient / sums  # Towards the product with the weights not yet divided.
    mean = (gradient * x).sum(-1, keepdims=True)
    gradient = gradient.astype(v.dtype)
    v_gradient = jnp.einsum("Bnhqk,Bnhqd->Bnhkd", weights, gradient)
    logits = weights * (jnp.einsum("Bnhqd,Bnhkd->Bnhqk", gradient, v, preferred_element_type=jnp.float32) - mean)
    logits = jax.lax.optimization_barrier(logits)
    bias_gradient = _sum_of_windows(logits)
    if len(bias) == 1:
        bias_gradient = bias_gradient.sum(0, keepdims=True)
    logits = logits.astype(v.dtype)
    q_gradient = jnp.einsum("Bnhqk,Bnhkd->Bnhqd", logits, k)
    k_gradient = jnp.einsum("Bnhqk,Bnhqd->Bnhkd", logits, _for_windows(q, k))
    if q.ndim == 4:
        q_gradient = q_gradient.sum(1)
    return q_gradient, k_gradient, v_gradient, bias_gradient.astype(bias.dtype), None


def _for_windows(q: jax.Array, k: jax.Array) -> jax.Array:
    """A shared query for each window: copies of it cost less than a product whose result has to be transposed."""
    return q if q.ndim == k.ndim else jnp.broadcast_to(q[:, None], k.shape)


def _sum_of_windows(x: jax.Array) -> jax.Array:
    """The sum (h, T, T) of (B, n, h, T, T), by adding whole arrays eight at a time."""
    x = x.reshape(-1, *x.shape[2:])
    while len(x) > 8 and len(x) % 8 == 0:
        x = jax.lax.optimization_barrier(functools.reduce(jax.lax.add, x.reshape(8, -1, *x.shape[1:])))
    return functools.reduce(jax.lax.add, x) if len(x) <= 8 else x.sum(0)


windowed_attention.defvjp(_forward, _backward)
