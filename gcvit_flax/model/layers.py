"""Dense layers, layer normalization and the initializers that all parts of the network share.

Initializers follow the official code: its "truncated" normal cuts at two absolute units, a hundred standard
deviations, so it is a plain normal; its convolutions keep PyTorch's uniform(+-1/sqrt(fan_in)). Where a library's
default happens to agree, it is written down all the same.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gcvit_flax.model.kernels.dense import dense_dot_general
from gcvit_flax.model.kernels.narrow import promote_but_kernels
from gcvit_flax.model.kernels.pointwise import layer_norm

LAYER_NORM_EPSILON = 1e-5  # linen's default is 1e-6.
NORMAL_STD = 0.02
normal_init = nn.initializers.normal(NORMAL_STD)
conv_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

Dense = functools.partial(
    nn.Dense,
    kernel_init=normal_init,
    bias_init=nn.initializers.zeros,
    promote_dtype=promote_but_kernels,
    dot_general=dense_dot_general,
)


class LayerNorm(nn.Module):
    """Layer normalization over the last axis, with statistics in float32: (..., C) -> (..., C)."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return layer_norm(x, scale, bias, LAYER_NORM_EPSILON).astype(self.dtype)
