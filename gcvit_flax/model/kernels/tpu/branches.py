"""The two residual branches of a block from its parameter tree, differentiable: what the network calls on TPUs."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gcvit_flax.model.kernels.tpu.attention_branch import (
    AttentionWeights,
    attention_branch,
    attention_branch_gradients,
)
from gcvit_flax.model.kernels.tpu.late import shapes_of, traced_late
from gcvit_flax.model.kernels.tpu.mlp_branch import MlpWeights, mlp_branch, mlp_branch_gradients

Params = Mapping[str, Any]


def attention(
    x: jax.Array,
    query: jax.Array | None,
    params: Params,
    position_bias: jax.Array,
    key_mask: jax.Array | None,
    path_scale: jax.Array | None,
    num_heads: int,
    qk_scale: float,
    epsilon: float,
) -> jax.Array:
    """x + path scale * gamma1 * Attention(LayerNorm(x)), on windows (B, n, T, C), by the block's `params`."""
    kernel, bias = _after_norm(params["norm1"], params["attn"]["qkv"])
    out_kernel, out_bias = _before_gamma(params["attn"]["proj"], params.get("gamma1"))
    weights = AttentionWeights(kernel.astype(x.dtype), bias, out_kernel.astype(x.dtype), out_bias)
    scale = _image_scale(x, path_scale)
    return _attention(x, query, weights, position_bias, key_mask, scale, num_heads, qk_scale, epsilon)


def mlp(x: jax.Array, params: Params, path_scale: jax.Array | None, epsilon: float) -> jax.Array:
    """x + path scale * gamma2 * MLP(LayerNorm(x)), on windows (B, n, T, C), by the block's `params`."""
    kernel1, bias1 = _after_norm(params["norm2"], params["mlp"]["fc1"])
    kernel2, bias2 = _before_gamma(params["mlp"]["fc2"], params.get("gamma2"))
    weights = MlpWeights(kernel1.astype(x.dtype), bias1, kernel2.astype(x.dtype), bias2)
    return _mlp(x, weights, _image_scale(x, path_scale), epsilon)


def _after_norm(norm: Params, dense: Params) -> tuple[jax.Array, jax.Array]:
    """A layer that reads a norm's output, as one that reads it before its scale and bias."""
    kernel = norm["scale"][:, None] * dense["kernel"]
    bias = jnp.matmul(norm["bias"][None], dense["kernel"], precision=jax.lax.Precision.HIGHEST)
    return kernel, bias + dense.get("bias", 0.0)


def _before_gamma(dense: Params, gamma: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    kernel, bias = dense["kernel"], dense["bias"][None]
    return (kernel, bias) if gamma is None else (kernel * gamma, bias * gamma)


def _image_scale(x: jax.Array, path_scale: jax.Array | None) -> jax.Array:
    return (
        jnp.ones((len(x), 1, 1), jnp.float32) if path_scale is None else path_scale[:, None, None].astype(jnp.float32)
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8))
def _attention(
    x: jax.Array,
    query: jax.Array | None,
    weights: AttentionWeights,
    position_bias: jax.Array,
    key_mask: jax.Array | None,
    scale: jax.Array,
    num_heads: int,
    qk_scale: float,
    epsilon: float,
) -> jax.Array:
    arrays = x, query, weights, position_bias, key_mask, scale
    settings = {"num_heads": num_heads, "qk_scale": qk_scale, "epsilon": epsilon}
    return traced_late(attention_branch, shapes_of(x), *arrays, **settings)


def _attention_forward(*arguments: Any) -> tuple[jax.Array, tuple[Any, ...]]:
    return _attention(*arguments), arguments[:6]


def _attention_backward(
    num_heads: int, qk_scale: float, epsilon: float, saved: tuple[Any, ...], gradient: jax.Array
) -> tuple[Any, ...]:
    x, query, weights, position_bias, _, scale = saved
    shapes = shapes_of((x, query)), shapes_of(weights, jnp.float32), shapes_of(position_bias)
    settings = {"num_heads": num_heads, "qk_scale": qk_scale, "epsilon": epsilon}
    (x_gradient, query_gradient), weights_gradient, bias_gradient = traced_late(
        attention_branch_gradients, shapes, *saved, gradient, **settings
    )
    # Path scales are drawn, not trained.
    return x_gradient, query_gradient, _like(weights, weights_gradient), bias_gradient, None, jnp.zeros_like(scale)


_attention.defvjp(_attention_forward, _attention_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _mlp(x: jax.Array, weights: MlpWeights, scale: jax.Array, epsilon: float) -> jax.Array:
    return traced_late(mlp_branch, shapes_of(x), x, weights, scale, epsilon=epsilon)


def _mlp_forward(*arguments: Any) -> tuple[jax.Array, tuple[Any, ...]]:
    return _mlp(*arguments), arguments[:3]


def _mlp_backward(epsilon: float, saved: tuple[Any, ...], gradient: jax.Array) -> tuple[Any, ...]:
    x, weights, scale = saved
    shapes = shapes_of(x), shapes_of(weights, jnp.float32)
    x_gradient, weights_gradient = traced_late(mlp_branch_gradients, shapes, *saved, gradient, epsilon=epsilon)
    return x_gradient, _like(weights, weights_gradient), jnp.zeros_like(scale)


_mlp.defvjp(_mlp_forward, _mlp_backward)


def _like(weights: Any, gradients: Any) -> Any:
    return jax.tree.map(lambda weight, gradient: gradient.astype(weight.dtype), weights, gradients)
