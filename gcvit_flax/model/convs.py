"""The convolutional parts: stem, downsampling and the MBConv residual they share (paper, section 3.3, figure 4)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gcvit_flax.model.by_platform import by_platform, is_watched
from gcvit_flax.model.kernels.convolution import depthwise_conv3x3, strided_conv3x3, strided_conv3x3_by_rows
from gcvit_flax.model.kernels.narrow import is_narrower
from gcvit_flax.model.kernels.pointwise import add_bias, gelu
from gcvit_flax.model.kernels.precision import widen
from gcvit_flax.model.kernels.tpu.mbconv import Params, fit_kernels, mbconv
from gcvit_flax.model.layers import LAYER_NORM_EPSILON, Dense, LayerNorm, conv_init
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
        if is_narrower(kernel, self.dtype):
            x = strided_conv3x3_by_rows(x, kernel)
        else:
            x = strided_conv3x3(x, kernel.astype(self.dtype))
        if self.use_bias:
            x = add_bias(x, self.param("bias", _stem_bias_init, (self.features,), in_channels))
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

    def __call__(self, x: jax.Array) -> jax.Array:
        if is_watched(self) or not fit_kernels(x, self.dtype):
            return self.layers(x)
        return by_platform(self, self.variables["params"], _mbconv_kernel, "layers", x)

    @nn.compact
    def layers(self, x: jax.Array) -> jax.Array:
        """The residual by its layers."""
        y = gelu(DepthwiseConv(self.dtype, name="depthwise")(x))
        y = SqueezeAndExcitation(self.dtype, name="se")(y)
        pointwise = Dense(x.shape[-1], use_bias=False, dtype=self.dtype, kernel_init=conv_init, name="pointwise")
        return x + pointwise(y)


def _mbconv_kernel(params: Params, x: jax.Array) -> jax.Array:
    return mbconv(x, params, None, LAYER_NORM_EPSILON)


class ReduceSize(nn.Module):
    """Halves H and W and sets the channels: (B, H, W, C) -> (B, H/2, W/2, features) (paper, equation 1).

    On a TPU the first norm is part of the kernels of the MBConv.
    """

    features: int
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.norm1 = LayerNorm(self.dtype)
        self.conv = MBConv(self.dtype)
        self.reduction = StridedConv(self.features, dtype=self.dtype)
        self.norm2 = LayerNorm(self.dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        if is_watched(self) or not fit_kernels(x, self.dtype):
            x = self.normalized_residual(x)
        else:
            params = {name: self.variables["params"][name] for name in ("norm1", "conv")}
            x = by_platform(self, params, _normalized_kernel, "normalized_residual", x)
        return self.norm2(self.reduction(x))

    def normalized_residual(self, x: jax.Array) -> jax.Array:
        """The MBConv of the first norm's results, by the layers."""
        return self.conv.layers(self.norm1(x))


def _normalized_kernel(params: Params, x: jax.Array) -> jax.Array:
    return mbconv(x, params["conv"], params["norm1"], LAYER_NORM_EPSILON)


class PatchEmbed(nn.Module):
    """The stem: a strided convolution and a ReduceSize, images (B, H, W, in) -> (B, H/4, W/4, features)."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = StridedConv(self.features, use_bias=True, dtype=self.dtype, name="proj")(images)
        return ReduceSize(self.features, self.dtype, name="conv_down")(x)
