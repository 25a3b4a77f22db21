"""Attention inside windows (paper, section 3.2, equation 5)."""

import functools

import jax
import jax.numpy as jnp

from gcvit_flax.model.remat import keep


@jax.custom_vjp
def windowed_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array, key_mask: jax.Array | None = None
) -> jax.Array:
    """softmax(q k^T + bias) v inside each window, with the softmax in float32."""
    return _forward(q, k, v, bias, key_mask)[0]


def _forward(q, k, v, bias, key_mask):
    shared = q.ndim == 4
    windows = jnp.broadcast_to(q[:, None], k.shape) if shared else q
    logits = jnp.einsum("Bnhqd,Bnhkd->Bnhqk", windows, k, preferred_element_type=jnp.float32)
    logits += bias.astype(jnp.float32)
    if key_mask is not None:
        logits = jnp.where(key_mask[:, None, None, :], logits, -jnp.inf)
    exponentials = jnp.exp(logits - logits.max(-1, keepdims=True))
    sums = exponentials.sum(-1, keepdims=True)
    exponentials = exponentials.astype(v.dtype)
    x = jnp.einsum("Bnhqk,Bnhkd->Bnhqd", exponentials, v, preferred_element_type=jnp.float32) / sums
    x = x.astype(v.dtype)
    exponentials, sums, x = keep((exponentials, sums, x))
    return x, (q, k, v, bias, exponentials, sums, x)


def _backward(saved, gradient):
    q, k, v, bias, exponentials, sums, x = saved
    shared = q.ndim == 4
    windows = jnp.broadcast_to(q[:, None], k.shape) if shared else q
    scaled = gradient / sums
    mean = (scaled * x).sum(-1, keepdims=True)
    scaled = scaled.astype(v.dtype)
    v_gradient = jnp.einsum("Bnhqk,Bnhqd->Bnhkd", exponentials, scaled)
    towards = jnp.einsum("Bnhqd,Bnhkd->Bnhqk", scaled, v, preferred_element_type=jnp.float32)
    logits = jax.lax.optimization_barrier(exponentials * (towards - mean))
    bias_gradient = _sum_windows(logits)
    if bias.shape[0] == 1:
        bias_gradient = bias_gradient.sum(0, keepdims=True)
    logits = logits.astype(v.dtype)
    q_gradient = jnp.einsum("Bnhqk,Bnhkd->Bnhqd", logits, k)
    k_gradient = jnp.einsum("Bnhqk,Bnhqd->Bnhkd", logits, windows)
    if shared:
        q_gradient = q_gradient.sum(1)
    return q_gradient, k_gradient, v_gradient, bias_gradient.astype(bias.dtype), None


def _sum_windows(x: jax.Array) -> jax.Array:
    x = x.reshape(-1, *x.shape[2:])
    while len(x) % 8 == 0 and len(x) > 8:
        x = x.reshape(8, -1, *x.shape[1:])
        x = jax.lax.optimization_barrier(functools.reduce(jax.lax.add, list(x)))
    return functools.reduce(jax.lax.add, list(x))


windowed_attention.defvjp(_forward, _backward)
