"""GELU and layer normalization, whose backward passes recompute from their inputs what autodiff would store."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gcvit_flax.model.kernels.barrier import cpu_barrier
from gcvit_flax.model.kernels.custom_gradient import custom_gradient
from gcvit_flax.model.kernels.precision import wide_type, widen
from gcvit_flax.model.rematerialize import save_for_backward


@custom_gradient()
def gelu(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """Exact GELU, x * Phi(x), by erf: jax.nn.gelu's erfc takes three times as long on CPUs."""
    wide = widen(x)
    return (wide * _normal_cdf(wide)).astype(x.dtype)


def _normal_cdf(x: jax.Array) -> jax.Array:
    return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))


def _gelu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    x = save_for_backward(x)
    return gelu(x), x


def _gelu_backward(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    x, gradient = cpu_barrier((x, gradient))
    wide = widen(x)
    density = jnp.exp(-0.5 * wide * wide) * (1 / math.sqrt(2 * math.pi))
    return ((gradient * (_normal_cdf(wide) + wide * density)).astype(x.dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)


@custom_gradient(nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, "*axes C"], scale: Float[Array, " C"], bias: Float[Array, " C"], epsilon: float
) -> Float[Array, "*axes C"]:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis, in float32 or wider.

    The variance is the mean square of the centered values: E[x^2] - E[x]^2 loses precision at large means.
    """
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


Saved = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def _layer_norm_forward(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> tuple[jax.Array, Saved]:
    x = save_for_backward(x)
    wide = widen(x)
    mean = wide.mean(-1, keepdims=True)
    factor = jax.lax.rsqrt(jnp.square(wide - mean).mean(-1, keepdims=True) + epsilon)
    mean, factor = save_for_backward((mean, factor))
    return (wide - mean) * factor * scale + bias, (x, scale, mean, factor)


def _layer_norm_backward(_: float, saved: Saved, gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale, mean, factor = saved
    x, gradient = cpu_barrier((x, gradient))
    normalized = (widen(x) - mean) * factor
    scaled = gradient * scale
    products = cpu_barrier(scaled * normalized)  # XLA:CPU is slow at sums of products along rows.
    means = scaled.mean(-1, keepdims=True), products.mean(-1, keepdims=True)
    first, second = cpu_barrier(means)
    x_gradient = (scaled - first - normalized * second) * factor
    tokens = tuple(range(x.ndim - 1))
    scale_gradient, bias_gradient = (gradient * normalized).sum(tokens), gradient.sum(tokens)
    return x_gradient.astype(x.dtype), scale_gradient.astype(scale.dtype), bias_gradient.astype(scale.dtype)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@custom_gradient()
def add_bias(x: Float[Array, "*axes C"], bias: Float[Array, " C"]) -> Float[Array, "*axes C"]:
    """x + bias, of the type of x; on TPUs the gradient of the bias is a product with ones, faster than XLA's sum."""
    return x + bias.astype(x.dtype)


def _add_bias_backward(bias: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    total: jax.Array = jax.lax.platform_dependent(gradient, tpu=_sum_by_product, default=_sum)
    return gradient, total.astype(bias.dtype)


def _sum(x: jax.Array) -> jax.Array:
    return jax.lax.reduce_sum(x, tuple(range(x.ndim - 1))).astype(wide_type(x.dtype))


def _sum_by_product(x: jax.Array) -> jax.Array:
    axes = tuple(range(x.ndim - 1))
    ones = jnp.ones((2, *x.shape[:-1]), x.dtype)  # Two rows, since XLA would make a sum again of a product with one.
    dimensions = ((tuple(axis + 1 for axis in axes), axes), ((), ()))
    return jax.lax.dot_general(ones, x, dimensions, preferred_element_type=wide_type(x.dtype))[0]


add_bias.defvjp(lambda x, bias: (add_bias(x, bias), bias), _add_bias_backward)
