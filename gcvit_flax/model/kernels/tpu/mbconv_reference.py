"""What the kernels of the MBConv residual compute, by operations that XLA can divide among devices."""

import jax
import jax.numpy as jnp

from gcvit_flax.model.kernels import plain
from gcvit_flax.model.kernels.pointwise import gelu
from gcvit_flax.model.kernels.tpu.mbconv_forward import MBConvWeights
from gcvit_flax.model.kernels.tpu.rows import normalize, product


def depthwise(x: jax.Array, weights: MBConvWeights, epsilon: float) -> tuple[jax.Array, jax.Array]:
    """See `mbconv_forward.depthwise`."""
    images = _normed(x, weights, epsilon).transpose(3, 0, 1, 2)
    kernel = weights.taps.reshape(3, 3, 1, -1).astype(images.dtype)
    y = plain.depthwise_conv3x3(images, kernel).transpose(1, 2, 3, 0)
    return y.astype(x.dtype), gelu(y).sum((0, 1))


def pointwise(x: jax.Array, y: jax.Array, gate: jax.Array, weights: MBConvWeights, epsilon: float) -> jax.Array:
    """See `mbconv_forward.pointwise`."""
    return (_normed(x, weights, epsilon) + _residual(y, gate, weights.pointwise)).astype(x.dtype)


def gate_gradients(
    y: jax.Array, gate: jax.Array, kernel: jax.Array, gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """See `mbconv_backward.gate_gradients`."""

    def residual(gate: jax.Array, wide: jax.Array) -> jax.Array:
        return _residual(y, gate, wide.astype(kernel.dtype))

    gradients: tuple[jax.Array, jax.Array] = jax.vjp(residual, gate, kernel.astype(jnp.float32))[1](
        gradient.astype(jnp.float32)
    )
    return gradients


def depthwise_gradients(
    x: jax.Array,
    y: jax.Array,
    gate: jax.Array,
    sums_gradient: jax.Array,
    weights: MBConvWeights,
    gradient: jax.Array,
    epsilon: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """See `mbconv_backward.depthwise_gradients`; y is computed again."""
    named = {name: value for name, value in weights._asdict().items() if name != "pointwise" and value is not None}

    def both(x: jax.Array, wide: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        moved = weights._replace(**{name: value.astype(named[name].dtype) for name, value in wide.items()})
        y, sums = depthwise(x, moved, epsilon)
        return pointwise(x, y, gate, moved, epsilon), sums

    wide = {name: value.astype(jnp.float32) for name, value in named.items()}
    gradients: tuple[jax.Array, dict[str, jax.Array]] = jax.vjp(both, x, wide)[1]((gradient, sums_gradient))
    return gradients


def _normed(x: jax.Array, weights: MBConvWeights, epsilon: float) -> jax.Array:
    x = x.astype(jnp.float32)
    if weights.scale is None or weights.bias is None:
        return x
    return normalize(x, epsilon, axis=-2)[0] * weights.scale[:, None] + weights.bias[:, None]


def _residual(y: jax.Array, gate: jax.Array, kernel: jax.Array) -> jax.Array:
    gated = (gelu(y.astype(jnp.float32)) * gate).astype(kernel.dtype)
    return product("io,hwib->hwob", kernel, gated)
