"""Numerics that every layer shares, written down even where a library's default happens to agree.

Initialisers follow the official code: its "truncated" normal cuts at two absolute units, a hundred standard
deviations, so it is a plain normal; its convolutions keep PyTorch's uniform(+-1/sqrt(fan_in)).
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

NORMAL_STD = 0.02
normal_init = nn.initializers.normal(NORMAL_STD)
conv_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

Dense = functools.partial(nn.Dense, kernel_init=normal_init, bias_init=nn.initializers.zeros)
# linen's default epsilon is 1e-6; the two-pass variance keeps float32 parity where the mean is large.
LayerNorm = functools.partial(nn.LayerNorm, epsilon=1e-5, use_fast_variance=False)


def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU, x * Phi(x), by erf rather than the erfc of jax.nn.gelu, which is slow on CPUs."""
    return x * (0.5 + 0.5 * jax.lax.erf(x * jnp.asarray(math.sqrt(0.5), x.dtype)))
