"""GELU and layer normalisation, whose backward passes compute from their inputs what autodiff would keep in memory."""

import functools
import math

import jax
import jax.numpy as jnp

from gcvit_flax.model.rematerialize import save_for_backward


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU, x * Phi(x), by erf: jax.nn.gelu's erfc takes three times as long on CPUs."""
    return x * _normal_distribution(x)


def _normal_distribution(x: jax.Array) -> jax.Array:
    return 0.5 + 0.5 * jax.lax.erf(x * jnp.asarray(math.sqrt(0.5), x.dtype))


def _gelu_backward(x: jax.Array, gradient: jax.Array):
    x, gradient = jax.lax.optimization_barrier((x, gradient))
    density = jnp.exp(-0.5 * x * x) * jnp.asarray(1 / math.sqrt(2 * math.pi), x.dtype)
    return (gradient * (_normal_distribution(x) + x * density),)


gelu.defvjp(lambda x: (gelu(x), save_for_backward(x)), _gelu_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis: (..., C) to float32 (..., C).

    The variance is that of the centred values: the difference of means loses float32 parity where the mean is large.
    """
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(x, scale, bias, epsilon):
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    factor = jax.lax.rsqrt(jnp.square(wide - mean).mean(-1, keepdims=True) + epsilon)
    x, mean, factor = save_for_backward((x, mean, factor))
    return (wide - mean) * factor * scale + bias, (x, scale, mean, factor)


def _layer_norm_backward(_, saved, gradient):
    x, scale, mean, factor = saved
    x, gradient = jax.lax.optimization_barrier((x, gradient))
    normalised = (x.astype(jnp.float32) - mean) * factor
    towards = gradient * scale
    means = towards.mean(-1, keepdims=True), (towards * normalised).mean(-1, keepdims=True)
    first, second = jax.lax.optimization_barrier(means)
    x_gradient = (towards - first - normalised * second) * factor
    tokens = tuple(range(x.ndim - 1))
    scale_gradient, bias_gradient = (gradient * normalised).sum(tokens), gradient.sum(tokens)
    return x_gradient.astype(x.dtype), scale_gradient.astype(scale.dtype), bias_gradient.astype(scale.dtype)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)
