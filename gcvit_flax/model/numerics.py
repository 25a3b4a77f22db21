"""Numerics that every layer shares, written down even where a library's default happens to agree.

Initialisers follow the official code: its "truncated" normal cuts at two absolute units, a hundred standard
deviations, so it is a plain normal; its convolutions keep PyTorch's uniform(+-1/sqrt(fan_in)).
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gcvit_flax.model.remat import keep

NORMAL_STD = 0.02
normal_init = nn.initializers.normal(NORMAL_STD)
conv_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

Dense = functools.partial(nn.Dense, kernel_init=normal_init, bias_init=nn.initializers.zeros)


_SQRT_HALF, _DENSITY = math.sqrt(0.5), 1 / math.sqrt(2 * math.pi)


def _phi(x):
    return 0.5 + 0.5 * jax.lax.erf(x * jnp.asarray(_SQRT_HALF, x.dtype))


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU, x * Phi(x), by erf rather than the erfc of jax.nn.gelu, which is slow on CPUs."""
    return x * _phi(x)


def _gelu_backward(x, gradient):
    x, gradient = jax.lax.optimization_barrier((x, gradient))
    return (gradient * (_phi(x) + x * (jnp.asarray(_DENSITY, x.dtype) * jnp.exp(-0.5 * x * x))),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


@jax.custom_vjp
def layer_norm(x, scale, bias):
    return _ln_forward(x, scale, bias)[0]


def _ln_forward(x, scale, bias):
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    centred = wide - mean
    rstd = jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5)
    mean, rstd = keep((mean, rstd))
    return (x.astype(jnp.float32) - mean) * rstd * scale + bias, (x, scale, bias, mean, rstd)


def _ln_backward(saved, gradient):
    x, scale, bias, mean, rstd = saved
    x, gradient = jax.lax.optimization_barrier((x, gradient))
    axes = tuple(range(x.ndim - 1))
    gradient = gradient.astype(jnp.float32)
    normal = (x.astype(jnp.float32) - mean) * rstd
    scaled = gradient * scale
    a = scaled.mean(-1, keepdims=True)
    b = (scaled * normal).mean(-1, keepdims=True)
    a, b = jax.lax.optimization_barrier((a, b))
    dx = (scaled - a - normal * b) * rstd
    return dx.astype(x.dtype), (gradient * normal).sum(axes), gradient.sum(axes)


layer_norm.defvjp(_ln_forward, _ln_backward)


class LayerNorm(nn.Module):
    """Layer normalisation."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return layer_norm(x, scale, bias).astype(self.dtype)
