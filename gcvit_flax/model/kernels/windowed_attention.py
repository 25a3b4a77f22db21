"""Attention inside windows, local or by the global query (paper, section 3.2, equation 5)."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gcvit_flax.model.kernels.attention_by_heads import (
    Saved,
    attention_by_heads,
    backward_by_heads,
    forward_by_heads,
    merge_heads,
)
from gcvit_flax.model.kernels.custom_gradient import custom_gradient, varying_alike
from gcvit_flax.model.kernels.late import shapes_of, traced_late
from gcvit_flax.model.kernels.tpu import window_attention
from gcvit_flax.model.rematerialize import save_for_backward


@custom_gradient(nondiff_argnums=(4, 5))
def windowed_attention(
    qkv: Float[Array, "B n T channels"],
    query: Float[Array, "B T C"] | None,
    bias: Float[Array, "h_or_1 T T"],
    key_mask: Bool[Array, "n T"] | None,
    num_heads: int,
    scale: float,
) -> Float[Array, "B n T C"]:
    """softmax(scale * q k^T + bias) v inside each window and head, with the softmax in float32.

    `qkv` has queries, keys and values along its channels; with a `query` shared by all windows of an image, keys and
    values. `key_mask` is False at padding.

    On a TPU a kernel of its own computes it (`tpu.window_attention`). Elsewhere the softmax is normalized after the
    product with v: d divisions per token instead of T, which halves the time on CPUs; and the backward pass is written
    out because autodiff's sum of the bias gradient over a few large arrays is slow.
    """
    return _forward(qkv, query, bias, key_mask, num_heads, scale)[0]


_Inputs = tuple[jax.Array | None, jax.Array, jax.Array | None]  # Query, bias and mask.


def _forward(
    qkv: jax.Array, query: jax.Array | None, bias: jax.Array, key_mask: jax.Array | None, num_heads: int, scale: float
) -> tuple[jax.Array, tuple[_Inputs, Saved]]:
    query = save_for_backward(query)
    on_tpu = _forward_on_tpu if window_attention.fit_attention(qkv, query, num_heads) else forward_by_heads
    saved = jax.lax.platform_dependent(
        qkv,
        query,
        bias,
        key_mask,
        tpu=functools.partial(on_tpu, num_heads=num_heads, scale=scale),
        default=functools.partial(forward_by_heads, num_heads=num_heads, scale=scale),
    )
    saved = save_for_backward(saved)
    in_order = _merge if on_tpu is forward_by_heads else lambda saved: saved.output
    x = jax.lax.platform_dependent(saved, tpu=in_order, default=_merge)
    return x, ((query, bias, key_mask), saved)


def _backward(
    num_heads: int, scale: float, residuals: tuple[_Inputs, Saved], gradient: jax.Array
) -> tuple[jax.Array, jax.Array | None, jax.Array, None]:
    (query, bias, key_mask), saved = residuals
    on_tpu = _backward_on_tpu if window_attention.fit_attention(saved.qkv, query, num_heads) else backward_by_heads
    gradients = jax.lax.platform_dependent(
        query,
        bias,
        key_mask,
        saved,
        gradient,
        tpu=functools.partial(on_tpu, num_heads=num_heads, scale=scale),
        default=functools.partial(backward_by_heads, num_heads=num_heads, scale=scale),
    )
    return *gradients, None


windowed_attention.defvjp(_forward, _backward)


def _merge(saved: Saved) -> jax.Array:
    return merge_heads(saved.mean)


def _forward_on_tpu(
    qkv: jax.Array,
    query: jax.Array | None,
    bias: jax.Array,
    key_mask: jax.Array | None,
    *,
    num_heads: int,
    scale: float,
) -> Saved:
    *shape, channels = qkv.shape
    output = jax.ShapeDtypeStruct((*shape, channels // (3 if query is None else 2)), qkv.dtype)
    arrays, forms = (qkv, query, bias, key_mask), (window_attention.attention, attention_by_heads)
    x = traced_late(*forms, output, *arrays, num_heads=num_heads, scale=scale)
    # What the other form saves; only its shapes are computed.
    other = jax.eval_shape(functools.partial(forward_by_heads, num_heads=num_heads, scale=scale), *arrays)
    zeros = {name: jnp.zeros(value.shape, value.dtype) for name, value in other._asdict().items()}
    return Saved(*varying_alike(Saved(**(zeros | {"qkv": qkv, "output": x}))))


def _backward_on_tpu(
    query: jax.Array | None,
    bias: jax.Array,
    key_mask: jax.Array | None,
    saved: Saved,
    gradient: jax.Array,
    *,
    num_heads: int,
    scale: float,
) -> tuple[jax.Array, jax.Array | None, jax.Array]:
    arrays, shapes = (saved.qkv, query, bias, key_mask, gradient), shapes_of((saved.qkv, query, bias))
    kernels = window_attention.attention_gradients, _gradients_by_heads
    return traced_late(*kernels, shapes, *arrays, num_heads=num_heads, scale=scale)


def _gradients_by_heads(
    qkv: jax.Array,
    query: jax.Array | None,
    bias: jax.Array,
    key_mask: jax.Array | None,
    gradient: jax.Array,
    *,
    num_heads: int,
    scale: float,
) -> tuple[jax.Array, jax.Array | None, jax.Array]:
    attention = functools.partial(attention_by_heads, key_mask=key_mask, num_heads=num_heads, scale=scale)
    gradients: tuple[jax.Array, jax.Array | None, jax.Array] = jax.vjp(attention, qkv, query, bias)[1](gradient)
    return gradients
