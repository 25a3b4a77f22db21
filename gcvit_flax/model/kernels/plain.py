"""What the kernels compute, written plainly; also used with dropout, which the attention kernel does not have."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gcvit_flax.model.kernels.precision import wide_type

_AXES = ("NHWC", "HWIO", "NHWC")


def windowed_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array,
    key_mask: jax.Array | None = None,
    dropout: Callable[[jax.Array], jax.Array] = lambda weights: weights,
) -> jax.Array:
    """dropout(softmax(q k^T + bias)) v; see `windowed_attention.windowed_attention` for shapes."""
    logits = attention_logits(q, k, bias, key_mask)
    weights = dropout(jax.nn.softmax(logits).astype(v.dtype))
    return jnp.einsum("Bnhqk,Bnhkd->Bnhqd", weights, v)


def attention_logits(q: jax.Array, k: jax.Array, bias: jax.Array, key_mask: jax.Array | None = None) -> jax.Array:
    """q k^T + bias, (B, n, h, T, T), with -inf at padded keys; shapes as for `windowed_attention`."""
    query_axes = "Bhqd" if q.ndim == 4 else "Bnhqd"
    wide = wide_type(q.dtype)
    logits = jnp.einsum(f"{query_axes},Bnhkd->Bnhqk", q, k, preferred_element_type=wide) + bias
    return logits if key_mask is None else jnp.where(key_mask[:, None, None, :], logits, -jnp.inf)


def dense(x: jax.Array, kernel: jax.Array, precision: Any) -> jax.Array:
    """The product of the last axis with a kernel, in the kernel's type, with sums of the input's."""
    dimensions = ((x.ndim - 1,), (0,)), ((), ())
    return jax.lax.dot_general(x.astype(kernel.dtype), kernel, dimensions, precision, preferred_element_type=x.dtype)


def depthwise_conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A grouped convolution with one channel per group."""
    padding = ((1, 1), (1, 1))
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=_AXES, feature_group_count=x.shape[-1]
    )


def strided_conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution of stride 2 that pads both sides by one."""
    return jax.lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=_AXES)


def max_pool3x3(x: jax.Array, padding_value: float) -> jax.Array:
    """A reduction over windows of stride 2, after padding both sides by one."""
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=padding_value)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")


def gelu(x: jax.Array) -> jax.Array:
    """x * Phi(x)."""
    return jax.nn.gelu(x, approximate=False)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis."""
    centered = x - x.mean(-1, keepdims=True)
    return centered / jnp.sqrt((centered**2).mean(-1, keepdims=True) + epsilon) * scale + bias
