"""The MBConv residual from its parameter tree, differentiable: what the network calls on TPUs."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gcvit_flax.model.kernels.custom_gradient import custom_gradient
from gcvit_flax.model.kernels.late import shapes_of, traced_late
from gcvit_flax.model.kernels.pointwise import gelu
from gcvit_flax.model.kernels.tpu import mbconv_reference as reference
from gcvit_flax.model.kernels.tpu.mbconv_backward import depthwise_gradients, gate_gradients
from gcvit_flax.model.kernels.tpu.mbconv_forward import PACKED, MBConvWeights, depthwise, pointwise
from gcvit_flax.model.kernels.tpu.tiles import LANES
from gcvit_flax.model.rematerialize import save_for_backward

WIDEST = 256  # Channels: the taps and their gradients for all images of wider maps fill the vector memory of a v4 core.

Params = Mapping[str, Any]
Gating = tuple[jax.Array, jax.Array]  # The kernels of squeeze-and-excitation.


def mbconv(x: jax.Array, params: Params, norm: Params | None, epsilon: float) -> jax.Array:
    """z = LayerNorm(x), or x if `norm` is None, plus the residual of an MBConv by its `params`: (B, H, W, C)."""
    taps = params["depthwise"]["kernel"].reshape(9, -1)
    scale, bias = (None, None) if norm is None else (norm["scale"], norm["bias"])
    weights = MBConvWeights(taps.astype(x.dtype), params["pointwise"]["kernel"].astype(x.dtype), scale, bias)
    gating = params["se"]["fc1"]["kernel"].astype(x.dtype), params["se"]["fc2"]["kernel"].astype(x.dtype)
    return _mbconv(x.transpose(1, 2, 3, 0), weights, gating, epsilon).transpose(3, 0, 1, 2)


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


def _gates(sums: jax.Array, gating: Gating, pixels: int) -> jax.Array:
    """Of sums over a map, (C, B), by squeeze-and-excitation."""
    means = (sums / pixels).astype(gating[0].dtype)
    hidden = gelu(jnp.einsum("ib,ih->hb", means, gating[0]))
    return jax.nn.sigmoid(jnp.einsum("hb,ho->ob", hidden, gating[1])).astype(jnp.float32)


@custom_gradient(nondiff_argnums=(3,))
def _mbconv(x: jax.Array, weights: MBConvWeights, gating: Gating, epsilon: float) -> jax.Array:
    return _forward(x, weights, gating, epsilon)[0]


def _forward(x: jax.Array, weights: MBConvWeights, gating: Gating, epsilon: float) -> tuple[jax.Array, tuple[Any, ...]]:
    height, width, channels, batch = x.shape
    shapes = shapes_of(x), jax.ShapeDtypeStruct((channels, batch), jnp.float32)
    y, sums = save_for_backward(traced_late(depthwise, reference.depthwise, shapes, x, weights, epsilon=epsilon))
    gate = _gates(sums, gating, height * width)
    z = traced_late(pointwise, reference.pointwise, shapes_of(x), x, y, gate, weights, epsilon=epsilon)
    return z, (x, y, sums, weights, gating)


def _backward(epsilon: float, saved: tuple[Any, ...], gradient: jax.Array) -> tuple[Any, ...]:
    x, y, sums, weights, gating = saved
    gates = functools.partial(_gates, pixels=x.shape[0] * x.shape[1])
    gate, gates_gradient = jax.vjp(gates, sums, gating)
    shapes = shapes_of((gate, weights.pointwise), jnp.float32)
    gate_gradient, pointwise_gradient = traced_late(
        gate_gradients, reference.gate_gradients, shapes, y, gate, weights.pointwise, gradient
    )
    sums_gradient, gating_gradient = gates_gradient(gate_gradient)
    named = {name: value for name, value in weights._asdict().items() if name != "pointwise" and value is not None}
    arrays = x, y, gate, sums_gradient, weights, gradient
    shapes, forms = (shapes_of(x), shapes_of(named, jnp.float32)), (depthwise_gradients, reference.depthwise_gradients)
    x_gradient, gradients = traced_late(*forms, shapes, *arrays, epsilon=epsilon)
    gradients["pointwise"] = pointwise_gradient
    like = {name: value.astype(getattr(weights, name).dtype) for name, value in gradients.items()}
    return x_gradient, MBConvWeights(**{"scale": None, "bias": None} | like), gating_gradient


_mbconv.defvjp(_forward, _backward)
