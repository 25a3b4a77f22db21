"""The MBConv residual from its parameter tree, differentiable: what the network calls on TPUs."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gcvit_flax.model.kernels import plain
from gcvit_flax.model.kernels.custom_gradient import custom_gradient
from gcvit_flax.model.kernels.late import shapes_of, traced_late
from gcvit_flax.model.kernels.pointwise import gelu, layer_norm
from gcvit_flax.model.kernels.tpu.mbconv_backward import depthwise_gradients, gate_gradients
from gcvit_flax.model.kernels.tpu.mbconv_forward import PACKED, MBConvWeights, depthwise, pointwise
from gcvit_flax.model.kernels.tpu.rows import product
from gcvit_flax.model.kernels.tpu.tiles import LANES
from gcvit_flax.model.rematerialize import save_for_backward

WIDEST = 256  # Channels: the taps and their gradients for all images of wider maps fill the vector memory of a v4 core.

Params = Mapping[str, Any]
Gating = tuple[jax.Array, jax.Array]  # The kernels of squeeze-and-excitation.


class Saved(NamedTuple):
    """What the backward pass reads: the arguments, and of `_values` y (H, W, C, B) and the sums (C, B)."""

    x: jax.Array
    y: jax.Array
    sums: jax.Array
    params: Params
    norm: Params | None


def fit_kernels(x: jax.Array, dtype: Any) -> bool:
    """Whether kernels take maps like `x` (B, H, W, C), of a module that computes in `dtype`.

    They do where images fill the lanes as well as channels would: XLA is faster elsewhere. The number of images is a
    symbol in a program that is exported for any.
    """
    images, channels = x.shape[0], x.shape[-1]
    if not isinstance(images, int) or x.dtype != dtype or dtype not in (jnp.float32, jnp.bfloat16):
        return False
    fills = images % LANES == 0 or min(channels, LANES) <= images < LANES
    return fills and channels % PACKED == 0 and channels <= WIDEST


@custom_gradient(nondiff_argnums=(3,))
def mbconv(x: jax.Array, params: Params, norm: Params | None, epsilon: float) -> jax.Array:
    """z = LayerNorm(x), or x if `norm` is None, plus the residual of an MBConv by its `params`: (B, H, W, C)."""
    return _forward(x, params, norm, epsilon)[0]


def _forward(x: jax.Array, params: Params, norm: Params | None, epsilon: float) -> tuple[jax.Array, Saved]:
    batch, height, width, channels = x.shape
    shapes = (
        shapes_of(x),
        jax.ShapeDtypeStruct((height, width, channels, batch), x.dtype),
        jax.ShapeDtypeStruct((channels, batch), jnp.float32),
    )
    z, *saved = traced_late(_values, _values_by_layers, shapes, x, params, norm, epsilon=epsilon)
    y, sums = save_for_backward(saved)
    return z, Saved(x, y, sums, params, norm)


def _backward(epsilon: float, saved: Saved, gradient: jax.Array) -> tuple[jax.Array, Params, Params | None]:
    forms, shapes = (_gradients, _gradients_by_layers), shapes_of((saved.x, saved.params, saved.norm))
    gradients: tuple[jax.Array, Params, Params | None] = traced_late(*forms, shapes, saved, gradient, epsilon=epsilon)
    return gradients


mbconv.defvjp(_forward, _backward)


def _values(
    x: jax.Array, params: Params, norm: Params | None, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """z, and for the backward pass what the depthwise convolution gives and the sums of GELU of that over the map."""
    x = _images_last(x)
    weights, gating = _weights(params, norm, x.dtype)
    y, sums = depthwise(x, weights, epsilon)
    z = pointwise(x, y, _gates(sums, gating, x.shape[0] * x.shape[1]), weights, epsilon)
    return _images_first(z), y, sums


def _gradients(saved: Saved, gradient: jax.Array, epsilon: float) -> tuple[jax.Array, Params, Params | None]:
    """Those of x, `params` and `norm`."""
    x, y, sums, params, norm = saved
    x, gradient = _images_last(x), _images_last(gradient)
    (weights, gating), params_gradient = jax.vjp(functools.partial(_weights, dtype=x.dtype), params, norm)
    gates = functools.partial(_gates, pixels=x.shape[0] * x.shape[1])
    gate, gates_gradient = jax.vjp(gates, sums, gating)
    gate_gradient, pointwise_gradient = gate_gradients(y, gate, weights.pointwise, gradient)
    sums_gradient, gating_gradient = gates_gradient(gate_gradient)
    x_gradient, named = depthwise_gradients(x, y, gate, sums_gradient, weights, gradient, epsilon)
    named["pointwise"] = pointwise_gradient.astype(x.dtype)
    weights_gradient = MBConvWeights(**{"scale": None, "bias": None} | named)
    return _images_first(x_gradient), *params_gradient((weights_gradient, gating_gradient))


def _values_by_layers(
    x: jax.Array, params: Params, norm: Params | None, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    weights, gating = _weights(params, None, x.dtype)
    normed = x.astype(jnp.float32) if norm is None else layer_norm(x, norm["scale"], norm["bias"], epsilon)
    y = plain.depthwise_conv3x3(normed.astype(x.dtype), params["depthwise"]["kernel"].astype(x.dtype))
    activated = gelu(y.astype(jnp.float32))
    sums = activated.sum((1, 2)).T
    gate = _gates(sums, gating, x.shape[1] * x.shape[2]).T[:, None, None]
    z = normed + product("bhwi,io->bhwo", (activated * gate).astype(x.dtype), weights.pointwise)
    return z.astype(x.dtype), _images_last(y), sums


def _gradients_by_layers(saved: Saved, gradient: jax.Array, epsilon: float) -> tuple[jax.Array, Params, Params | None]:
    """They need neither y nor sums, and compute them again."""

    def residual(x: jax.Array, params: Params, norm: Params | None) -> jax.Array:
        return _values_by_layers(x, params, norm, epsilon)[0]

    gradients: tuple[jax.Array, Params, Params | None] = jax.vjp(residual, saved.x, saved.params, saved.norm)[1](
        gradient
    )
    return gradients


def _weights(params: Params, norm: Params | None, dtype: Any) -> tuple[MBConvWeights, Gating]:
    taps = params["depthwise"]["kernel"].astype(dtype).astype(jnp.float32).reshape(9, -1)
    scale, bias = (None, None) if norm is None else (norm[name].astype(jnp.float32) for name in ("scale", "bias"))
    weights = MBConvWeights(taps, params["pointwise"]["kernel"].astype(dtype), scale, bias)
    return weights, (params["se"]["fc1"]["kernel"].astype(dtype), params["se"]["fc2"]["kernel"].astype(dtype))


def _gates(sums: jax.Array, gating: Gating, pixels: int) -> jax.Array:
    """Of sums over a map, (C, B), by squeeze-and-excitation."""
    means = (sums / pixels).astype(gating[0].dtype)
    hidden = gelu(jnp.einsum("ib,ih->hb", means, gating[0]))
    return jax.nn.sigmoid(jnp.einsum("hb,ho->ob", hidden, gating[1])).astype(jnp.float32)


def _images_last(x: jax.Array) -> jax.Array:
    """(B, H, W, C) as (H, W, C, B): on a TPU a layout, which XLA chooses for convolutions too."""
    return x.transpose(1, 2, 3, 0)


def _images_first(x: jax.Array) -> jax.Array:
    """(H, W, C, B) as (B, H, W, C)."""
    return x.transpose(3, 0, 1, 2)
