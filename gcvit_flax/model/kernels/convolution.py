"""Strided 3x3 convolution."""

import jax
import jax.numpy as jnp


def _convolve(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@jax.custom_vjp
def strided_conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 3x3 convolution, stride 2, zero padding 1."""
    return _convolve(x, kernel)


def _backward(saved, gradient):
    x, kernel = saved
    x, gradient = jax.lax.optimization_barrier((x, gradient))
    (x_gradient,) = jax.vjp(lambda x: _convolve(x, kernel), x)[1](gradient)
    kernel_gradient = jax.lax.platform_dependent(x, kernel, gradient, cpu=_kernel_gradient, default=_auto)
    return x_gradient, kernel_gradient


def _auto(x, kernel, gradient):
    return jax.vjp(lambda kernel: _convolve(x, kernel), kernel)[1](gradient)[0]


def _kernel_gradient(x, kernel, gradient):
    def add(total, image):
        x, gradient = image
        h, w = gradient.shape[:2]
        x = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
        taps = [x[i : i + 2 * h - 1 : 2, j : j + 2 * w - 1 : 2] for i in range(3) for j in range(3)]
        taps = jax.lax.optimization_barrier(jnp.concatenate(taps, -1))
        return total + jnp.einsum("hwi,hwo->io", taps, gradient, preferred_element_type=jnp.float32), None

    total = jnp.zeros((9 * kernel.shape[2], kernel.shape[3]))
    total, _ = jax.lax.scan(add, total, (x, gradient))
    return total.reshape(kernel.shape).astype(kernel.dtype)


strided_conv3x3.defvjp(lambda x, kernel: (_convolve(x, kernel), (x, kernel)), _backward)
