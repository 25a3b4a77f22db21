"""The two residual branches of a block from its parameter tree, differentiable: what the network calls on TPUs."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gcvit_flax.model.kernels.attention_by_heads import attention_by_heads
from gcvit_flax.model.kernels.custom_gradient import custom_gradient
from gcvit_flax.model.kernels.late import shapes_of, traced_late
from gcvit_flax.model.kernels.pointwise import gelu
from gcvit_flax.model.kernels.tpu.attention_branch import (
    AttentionInputs,
    AttentionSettings,
    AttentionWeights,
    attention_branch,
    attention_branch_gradients,
)
from gcvit_flax.model.kernels.tpu.mlp_branch import MlpInputs, MlpWeights, mlp_branch, mlp_branch_gradients
from gcvit_flax.model.kernels.tpu.rows import normalize, product

Params = Mapping[str, Any]


def attention(
    x: jax.Array,
    query: jax.Array | None,
    params: Params,
    position_bias: jax.Array,
    key_mask: jax.Array | None,
    path_scale: jax.Array | None,
    settings: AttentionSettings,
) -> jax.Array:
    """x + path scale * gamma1 * Attention(LayerNorm(x)), on windows (B, n, T, C), by the block's `params`."""
    kernel, bias = _after_norm(params["norm1"], params["attn"]["qkv"])
    out_kernel, out_bias = _before_gamma(params["attn"]["proj"], params.get("gamma1"))
    weights = AttentionWeights(kernel.astype(x.dtype), bias, out_kernel.astype(x.dtype), out_bias)
    inputs = AttentionInputs(x, query, weights, position_bias, key_mask, _image_scale(x, path_scale))
    return _attention(inputs, settings)


def mlp(x: jax.Array, params: Params, path_scale: jax.Array | None, epsilon: float) -> jax.Array:
    """x + path scale * gamma2 * MLP(LayerNorm(x)), on windows (B, n, T, C), by the block's `params`."""
    kernel1, bias1 = _after_norm(params["norm2"], params["mlp"]["fc1"])
    kernel2, bias2 = _before_gamma(params["mlp"]["fc2"], params.get("gamma2"))
    weights = MlpWeights(kernel1.astype(x.dtype), bias1, kernel2.astype(x.dtype), bias2)
    return _mlp(MlpInputs(x, weights, _image_scale(x, path_scale)), epsilon)


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


@custom_gradient(nondiff_argnums=(1,))
def _attention(inputs: AttentionInputs, settings: AttentionSettings) -> jax.Array:
    return traced_late(attention_branch, _attention_by_layers, shapes_of(inputs.x), inputs, settings=settings)


def _attention_forward(inputs: AttentionInputs, settings: AttentionSettings) -> tuple[jax.Array, AttentionInputs]:
    return _attention(inputs, settings), inputs


def _attention_backward(
    settings: AttentionSettings, inputs: AttentionInputs, gradient: jax.Array
) -> tuple[AttentionInputs]:
    x, query, weights, position_bias, *_ = inputs
    shapes = shapes_of((x, query)), shapes_of(weights, jnp.float32), shapes_of(position_bias)
    kernels = attention_branch_gradients, _attention_gradients_by_layers
    gradients = traced_late(*kernels, shapes, inputs, gradient, settings=settings)
    (x_gradient, query_gradient), weights_gradient, bias_gradient = gradients
    # Path scales are drawn, not trained.
    rest = _like(weights, weights_gradient), bias_gradient, None, jnp.zeros_like(inputs.scale)
    return (AttentionInputs(x_gradient, query_gradient, *rest),)


_attention.defvjp(_attention_forward, _attention_backward)


def _attention_by_layers(inputs: AttentionInputs, settings: AttentionSettings) -> jax.Array:
    x, query, weights, position_bias, key_mask, scale = inputs
    qkv = _project(_normalize(x, settings.epsilon), weights.kernel, weights.bias).astype(x.dtype)
    arrays = qkv, query, position_bias, key_mask
    attended = attention_by_heads(*arrays, num_heads=settings.num_heads, scale=settings.qk_scale)
    return _add(x, scale, _project(attended, weights.out_kernel, weights.out_bias))


def _attention_gradients_by_layers(inputs: AttentionInputs, gradient: jax.Array, settings: AttentionSettings) -> Any:
    def branch(tokens: tuple[jax.Array, jax.Array | None], weights: AttentionWeights, position_bias: jax.Array) -> Any:
        weights = _like(inputs.weights, weights)
        moved = AttentionInputs(*tokens, weights, position_bias, inputs.key_mask, inputs.scale)
        return _attention_by_layers(moved, settings)

    weights = _like_float32(inputs.weights)
    return jax.vjp(branch, (inputs.x, inputs.query), weights, inputs.position_bias)[1](gradient)


@custom_gradient(nondiff_argnums=(1,))
def _mlp(inputs: MlpInputs, epsilon: float) -> jax.Array:
    return traced_late(mlp_branch, _mlp_by_layers, shapes_of(inputs.x), inputs, epsilon=epsilon)


def _mlp_forward(inputs: MlpInputs, epsilon: float) -> tuple[jax.Array, MlpInputs]:
    return _mlp(inputs, epsilon), inputs


def _mlp_backward(epsilon: float, inputs: MlpInputs, gradient: jax.Array) -> tuple[MlpInputs]:
    shapes = shapes_of(inputs.x), shapes_of(inputs.weights, jnp.float32)
    kernels = mlp_branch_gradients, _mlp_gradients_by_layers
    x_gradient, weights_gradient = traced_late(*kernels, shapes, inputs, gradient, epsilon=epsilon)
    return (MlpInputs(x_gradient, _like(inputs.weights, weights_gradient), jnp.zeros_like(inputs.scale)),)


_mlp.defvjp(_mlp_forward, _mlp_backward)


def _mlp_by_layers(inputs: MlpInputs, epsilon: float) -> jax.Array:
    x, weights, scale = inputs
    hidden = gelu(_project(_normalize(x, epsilon), weights.kernel1, weights.bias1)).astype(x.dtype)
    return _add(x, scale, _project(hidden, weights.kernel2, weights.bias2))


def _mlp_gradients_by_layers(inputs: MlpInputs, gradient: jax.Array, epsilon: float) -> Any:
    def branch(x: jax.Array, weights: MlpWeights) -> jax.Array:
        return _mlp_by_layers(inputs._replace(x=x, weights=_like(inputs.weights, weights)), epsilon)

    return jax.vjp(branch, inputs.x, _like_float32(inputs.weights))[1](gradient)


def _normalize(x: jax.Array, epsilon: float) -> jax.Array:
    return normalize(x.astype(jnp.float32), epsilon)[0].astype(x.dtype)


def _project(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    return product("Bntc,cd->Bntd", x, kernel) + bias


def _add(x: jax.Array, scale: jax.Array, y: jax.Array) -> jax.Array:
    return (x.astype(jnp.float32) + scale[..., None] * y).astype(x.dtype)


def _like(weights: Any, gradients: Any) -> Any:
    return jax.tree.map(lambda weight, gradient: gradient.astype(weight.dtype), weights, gradients)


def _like_float32(weights: Any) -> Any:
    return jax.tree.map(lambda weight: weight.astype(jnp.float32), weights)
