"""The convolutional parts: stem, downsampling and the MBConv residual they share (paper, section 3.3, figure 4)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gcvit_flax.model.kernels.convolution import depthwise_conv3x3, strided_conv3x3
from gcvit_flax.model.kernels.pointwise import gelu
from gcvit_flax.model.kernels.precision import widen
from gcvit_flax.model.layers import Dense, LayerNorm, conv_init
from gcvit_flax.model.rematerialize import save_for_backward


def stem_init_bound(in_channels: int) -> float:
    """The bound of the stem's bias, the only one of a convolution: drawn like a kernel, uniform(+-1/sqrt(fan in))."""
    return (3 * 3 * in_channels) ** -0.5


def _stem_bias_init(key: jax.Array, shape: tuple[int, ...], in_channels: int) -> jax.Array:
    bound = stem_init_bound(in_channels)
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


class StridedConv(nn.Module):
    """3x3 convolution of stride 2 that pads both sides by one: (B, H, W, C) -> (B, H/2, W/2, features).

    "SAME" padding would be (0, 1) on even sizes; the published networks pad (1, 1).
    """

    features: int
    use_bias: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        in_channels = x.shape[-1]
        kernel = self.param("kernel", conv_init, (3, 3, in_channels, self.features))
        x = strided_conv3x3(x, kernel.astype(self.dtype))
        if self.use_bias:
            x += self.param("bias", _stem_bias_init, (self.features,), in_channels).astype(self.dtype)
        return x


class DepthwiseConv(nn.Module):
    """Depthwise 3x3 convolution without a bias; see `depthwise_conv3x3`."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", conv_init, (3, 3, 1, x.shape[-1]))
        return depthwise_conv3x3(x, kernel.astype(self.dtype))


class SqueezeAndExcitation(nn.Module):
    """Scales each channel by a gate computed from the channels' means: (B, H, W, C) -> (B, H, W, C)."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        gate = widen(x).mean((1, 2)).astype(self.dtype)  # (B, C)
        gate = gelu(Dense(channels // 4, use_bias=False, dtype=self.dtype, name="fc1")(gate))
        gate = jax.nn.sigmoid(Dense(channels, use_bias=False, dtype=self.dtype, name="fc2")(gate))
        return x * save_for_backward(gate)[:, None, None]  # The mean over the map is expensive to recompute.


class MBConv(nn.Module):
    """x + Conv1x1(SE(GELU(DepthwiseConv3x3(x)))), without normalization or biases (paper, equation 1)."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = gelu(DepthwiseConv(self.dtype, name="depthwise")(x))
        y = SqueezeAndExcitation(self.dtype, name="se")(y)
        pointwise = nn.Dense(x.shape[-1], use_bias=False, dtype=self.dtype, kernel_init=conv_init, name="pointwise")
        return x + pointwise(y)


class ReduceSize(nn.Module):
    """Halves H and W and sets the channels: (B, H, W, C) -> (B, H/2, W/2, features) (paper, equation 1)."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = LayerNorm(dtype=self.dtype, name="norm1")(x)
        x = MBConv(self.dtype, name="conv")(x)
        x = StridedConv(self.features, dtype=self.dtype, name="reduction")(x)
        return LayerNorm(dtype=self.dtype, name="norm2")(x)


class PatchEmbed(nn.Module):
    """The stem: a strided convolution and a ReduceSize, images (B, H, W, in) -> (B, H/4, W/4, features)."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = StridedConv(self.features, use_bias=True, dtype=self.dtype, name="proj")(images)
        return ReduceSize(self.features, self.dtype, name="conv_down")(x)
