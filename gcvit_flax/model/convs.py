"""The convolutional parts: stem, downsampling and the MBConv residual they share (paper, section 3.3, figure 4)."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gcvit_flax.model.kernels.convolution import strided_conv3x3
from gcvit_flax.model.numerics import Dense, LayerNorm, conv_init, gelu
from gcvit_flax.model.remat import keep

class Conv3x3(nn.Module):
    features: int
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", conv_init, (3, 3, x.shape[-1], self.features))
        x = strided_conv3x3(x, kernel.astype(self.dtype))
        if self.use_bias:
            x += self.param("bias", _stem_bias_init, (self.features,)).astype(self.dtype)
        return keep(x)


@jax.custom_vjp
def depthwise_conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A depthwise 3x3 convolution, stride 1, zero padding 1: (B, H, W, C) with kernel (3, 3, 1, C) -> (B, H, W, C).

    Nine shifted products: XLA fuses them, and its grouped convolution is some thirty times slower on CPUs. The
    gradients are of the same form; autodiff's would be nine separate reductions and nine pads.
    """
    taps = jnp.split(kernel.reshape(9, -1), 9)
    return functools.reduce(jax.lax.add, (shift * tap for shift, tap in zip(_shifts(x), taps, strict=True)))


def _shifts(x: jax.Array) -> list[jax.Array]:
    """The nine neighbours' values at each place of a map (B, H, W, C), row by row, zero outside."""
    batch, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [
        jax.lax.slice(padded, (0, row, column, 0), (batch, row + height, column + width, channels))
        for row in range(3)
        for column in range(3)
    ]


def _depthwise_forward(x: jax.Array, kernel: jax.Array):
    return depthwise_conv3x3(x, kernel), (x, kernel)


def _depthwise_backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array):
    x, kernel = saved
    x, gradient = jax.lax.optimization_barrier((x, gradient))
    products = [(shift * gradient).astype(jnp.float32) for shift in _shifts(x)]
    # Nine sums in one pass over the rows; without the barrier XLA:CPU would fuse them with the slower second sum.
    zeros = [jnp.float32(0)] * 9
    rows = jax.lax.reduce(products, zeros, lambda a, b: [p + q for p, q in zip(a, b, strict=True)], (2,))
    kernel_gradient = jnp.stack(jax.lax.optimization_barrier(rows)).sum((1, 2))  # (9, B, W, C) -> (9, C)
    flipped = kernel[::-1, ::-1]
    return depthwise_conv3x3(gradient, flipped), kernel_gradient.reshape(kernel.shape).astype(kernel.dtype)


depthwise_conv3x3.defvjp(_depthwise_forward, _depthwise_backward)


def max_pool3x3(x: jax.Array, padding_value: float) -> jax.Array:
    """Max-pooling 3x3, stride 2, padding 1: (B, H, W, C) -> (B, ceil(H/2), ceil(W/2), C).

    The maximum is taken along the rows, then along the columns. `padding_value` is -inf in PyTorch and 0 in the
    TensorFlow and Keras implementations, which differs at edges where every value is negative.
    """
    for axis in (1, 2):
        spread = [(0, 0)] * 4
        spread[axis] = (1, 1)
        padded = jnp.pad(x, spread, constant_values=padding_value)
        size = x.shape[axis]
        x = functools.reduce(
            jnp.maximum, (jax.lax.slice_in_dim(padded, start, start + size, 2, axis) for start in range(3))
        )
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
        gate = x.mean((1, 2), dtype=jnp.float32).astype(self.dtype)  # (B, C)
        gate = gelu(Dense(channels // 4, use_bias=False, dtype=self.dtype, name="fc1")(gate))
        gate = jax.nn.sigmoid(Dense(channels, use_bias=False, dtype=self.dtype, name="fc2")(gate))
        return x * keep(gate)[:, None, None]


class MBConv(nn.Module):
    """x + Conv1x1(SE(GELU(DepthwiseConv3x3(x)))), without normalisation or biases (paper, equation 1)."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = gelu(keep(DepthwiseConv(self.dtype, name="depthwise")(x)))
        y = SqueezeAndExcitation(self.dtype, name="se")(y)
        pointwise = nn.Dense(x.shape[-1], use_bias=False, dtype=self.dtype, kernel_init=conv_init, name="pointwise")
        return keep(x + pointwise(y))


class ReduceSize(nn.Module):
    """Halves the map and sets its width: (B, H, W, C) -> (B, ceil(H/2), ceil(W/2), features) (paper, equation 1)."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = LayerNorm(dtype=self.dtype, name="norm1")(x)
        x = MBConv(self.dtype, name="conv")(x)
        x = Conv3x3(self.features, use_bias=False, dtype=self.dtype, name="reduction")(x)
        return LayerNorm(dtype=self.dtype, name="norm2")(x)


# A convolution's bias is drawn as its kernel is, +-1/sqrt(fan in); the stem's is the only one.
STEM_BIAS_BOUND = (3 * 3 * 3) ** -0.5


def _stem_bias_init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -STEM_BIAS_BOUND, STEM_BIAS_BOUND)


class PatchEmbed(nn.Module):
    """The stem: a strided convolution and a ReduceSize, images (B, H, W, 3) -> (B, H/4, W/4, features)."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = Conv3x3(self.features, dtype=self.dtype, name="proj")(images)
        return ReduceSize(self.features, self.dtype, name="conv_down")(x)
