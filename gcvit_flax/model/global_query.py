"""The global query generator: one window of queries from a whole map (paper, section 3.2, equation 4)."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from gcvit_flax.config import Size
from gcvit_flax.model.convs import MBConv
from gcvit_flax.model.kernels.convolution import max_pool3x3


class FeatureExtraction(nn.Module):
    """An MBConv residual, then a halving max-pool if `pool` is set."""

    pool: bool
    padding_value: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = MBConv(self.dtype, name="conv")(x)
        return max_pool3x3(x, self.padding_value) if self.pool else x


class GlobalQueryGenerator(nn.Module):
    """Shrinks the map to one window by `stages` of an MBConv and a max-pool: (B, H, W, C) -> (B, T, C).

    With 0 stages there is one MBConv without pooling. A map that does not end at the window's size, of an input of
    another size than the configured one, is resized to it: cubic, a = -0.5, no antialiasing.
    """

    stages: int
    window: Size
    padding: Literal["-inf", "zero"]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        padding_value = {"-inf": -jnp.inf, "zero": 0.0}[self.padding]
        for stage in range(max(1, self.stages)):
            name = f"to_q_global_{stage}"
            x = FeatureExtraction(self.stages > 0, padding_value, self.dtype, name=name)(x)
        if x.shape[1:3] != self.window:
            x = jax.image.resize(x, (x.shape[0], *self.window, x.shape[-1]), "cubic", antialias=False)
        return rearrange(x, "B wh ww C -> B (wh ww) C")
