"""GELU and layer normalization, whose backward passes recompute from their inputs what autodiff would store."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from gcvit_flax.model.kernels.barrier import cpu_barrier
from gcvit_flax.model.rematerialize import save_for_backward


@jax.custom_vjp
def gelu(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """Exact GELU, x * Phi(x), by erf: jax.nn.gelu's erfc takes three times as long on CPUs."""
    return x * _normal_cdf(x)


def _normal_cdf(x: jax.Array) -> jax.Array:
    return 0.5 + 0.5 * jax.lax.erf(x * jnp.asarray(math.sqrt(0.5), x.dtype))


def _gelu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    x = save_for_backward(x)
    return gelu(x), x


def _gelu_backward(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    x, gradient = cpu_barrier((x, gradient))
    density = jnp.exp(-0.5 * x * x) * jnp.asarray(1 / math.sqrt(2 * math.pi), x.dtype)
    return (gradient * (_normal_cdf(x) + x * density),)


gelu.defvjp(_gelu_forward, _gelu_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, "*axes C"], scale: Float[Array, " C"], bias: Float[Array, " C"], epsilon: float
) -> Float32[Array, "*axes C"]:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis.

    The variance is the mean square of the centered values: E[x^2] - E[x]^2 loses precision at large means.
    """
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


Saved = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def _layer_norm_forward(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> tuple[jax.Array, Saved]:
    x = save_for_backward(x)
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    factor = jax.lax.rsqrt(jnp.square(wide - mean).mean(-1, keepdims=True) + epsilon)
    mean, factor = save_for_backward((mean, factor))
    return (wide - mean) * factor * scale + bias, (x, scale, mean, factor)


def _layer_norm_backward(_: float, saved: Saved, gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale, mean, factor = saved
    x, gradient = cpu_barrier((x, gradient))
    normalized = (x.astype(jnp.float32) - mean) * factor
    scaled = gradient * scale
    means = scaled.mean(-1, keepdims=True), (scaled * normalized).mean(-1, keepdims=True)
    first, second = cpu_barrier(means)
    x_gradient = (scaled - first - normalized * second) * factor
    tokens = tuple(range(x.ndim - 1))
    scale_gradient, bias_gradient = (gradient * normalized).sum(tokens), gradient.sum(tokens)
    return x_gradient.astype(x.dtype), scale_gradient.astype(scale.dtype), bias_gradient.astype(scale.dtype)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@jax.custom_vjp
def add_bias(x: Float[Array, "*axes C"], bias: Float32[Array, " C"]) -> Float[Array, "*axes C"]:
    """x + bias, of the type of x; on TPUs the gradient of the bias is a product with ones, faster than XLA's sum."""
    return x + bias.astype(x.dtype)


def _add_bias_backward(bias: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    total = jax.lax.platform_dependent(gradient, tpu=_sum_by_product, default=_sum)
    return gradient, total.astype(bias.dtype)


def _sum(x: jax.Array) -> jax.Array:
    return jax.lax.reduce_sum(x, tuple(range(x.ndim - 1))).astype(jnp.float32)


def _sum_by_product(x: jax.Array) -> jax.Array:
    axes = tuple(range(x.ndim - 1))
    ones = jnp.ones((2, *x.shape[:-1]), x.dtype)  # Two rows, since XLA would make a sum again of a product with one.
    dimensions = ((tuple(axis + 1 for axis in axes), axes), ((), ()))
    return jax.lax.dot_general(ones, x, dimensions, preferred_element_type=jnp.float32)[0]


add_bias.defvjp(lambda x, bias: (add_bias(x, bias), bias), _add_bias_backward)
