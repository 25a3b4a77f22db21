"""The 3x3 convolutions and the max-pool of the stem, the downsampling and the query generator, on (B, H, W, C)."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from gcvit_flax.model.kernels import plain
from gcvit_flax.model.kernels.barrier import cpu_barrier
from gcvit_flax.model.kernels.custom_gradient import custom_gradient, varying_alike
from gcvit_flax.model.kernels.late import shapes_of, traced_late
from gcvit_flax.model.kernels.precision import wide_type, widen
from gcvit_flax.model.rematerialize import save_for_backward

Saved = tuple[jax.Array, jax.Array]  # The input and the kernel.


@custom_gradient()
def depthwise_conv3x3(x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 1 C"]) -> Float[Array, "B H W C"]:
    """A depthwise 3x3 convolution of stride 1 and zero padding 1.

    Nine shifted products: XLA fuses them, and its grouped convolution is some thirty times slower on CPUs. The
    gradients are of the same form; autodiff's would be nine separate reductions and nine pads. TPUs are faster with
    grouped convolutions, their gradients above all.
    """
    return jax.lax.platform_dependent(x, kernel, tpu=plain.depthwise_conv3x3, default=_shifted_products)


def _shifted_products(x: jax.Array, kernel: jax.Array) -> jax.Array:
    taps = jnp.split(kernel.reshape(9, -1), 9)
    return functools.reduce(jax.lax.add, (shift * tap for shift, tap in zip(_shifts(x), taps, strict=True)))


def _shifts(x: Float[Array, "B H W C"]) -> list[Float[Array, "B H W C"]]:
    """The nine neighbors' values at each place of a map, row by row, zero outside."""
    batch, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [
        jax.lax.slice(padded, (0, row, column, 0), (batch, row + height, column + width, channels))
        for row in range(3)
        for column in range(3)
    ]


def _depthwise_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Saved]:
    return depthwise_conv3x3(x, kernel), (x, kernel)


def _depthwise_backward(saved: Saved, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.lax.platform_dependent(
        *saved,
        gradient,
        tpu=_depthwise_gradients,
        cpu=functools.partial(_depthwise_gradients_by_products, sum_taps=_tap_gradients_by_rows),
        default=functools.partial(_depthwise_gradients_by_products, sum_taps=_tap_gradients),
    )


def _depthwise_gradients(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.vjp(plain.depthwise_conv3x3, x, kernel)[1](gradient)


def _depthwise_gradients_by_products(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, sum_taps: Callable[[jax.Array, jax.Array], jax.Array]
) -> tuple[jax.Array, jax.Array]:
    x, gradient = cpu_barrier((x, gradient))
    kernel_gradient = sum_taps(x, gradient).reshape(kernel.shape).astype(kernel.dtype)
    return _shifted_products(gradient, kernel[::-1, ::-1]), kernel_gradient


def _tap_gradients_by_rows(x: jax.Array, gradient: jax.Array) -> Float[Array, "9 C"]:
    """Nine sums in one pass, along the rows: on CPUs twice as fast as along the columns, seven times as nine sums."""
    products = [widen(shift * gradient) for shift in _shifts(x)]
    zeros = [jnp.zeros((), products[0].dtype)] * 9
    sums = jax.lax.reduce(products, zeros, lambda a, b: [p + q for p, q in zip(a, b, strict=True)], (2,))
    # Without the barrier XLA:CPU would fuse them with the slower second sum.
    return jnp.stack(cpu_barrier(sums)).sum((1, 2))  # (9, B, H, C) -> (9, C)


def _tap_gradients(x: jax.Array, gradient: jax.Array) -> Float[Array, "9 C"]:
    """One sum over nine times the columns in one pass; the nine sums by rows make XLA:GPU write nine arrays."""
    products = widen(jnp.concatenate(_shifts(x), -1)) * jnp.concatenate([gradient] * 9, -1)
    return products.sum((0, 1, 2)).reshape(9, -1)


depthwise_conv3x3.defvjp(_depthwise_forward, _depthwise_backward)


@custom_gradient()
def strided_conv3x3(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C D"]
) -> Float[Array, "B (H+1)//2 (W+1)//2 D"]:
    """A 3x3 convolution of stride 2 and zero padding 1.

    On a CPU the kernel's gradient is one matrix product per image, of its nine shifted copies, concatenated along the
    channels, with the gradient: about twice as fast as XLA's convolution.
    """
    return plain.strided_conv3x3(x, kernel)


def _strided_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Saved]:
    # Computed from the unmarked array, which XLA:TPU would copy; no gradient reads again what comes of it.
    return strided_conv3x3(x, kernel), (save_for_backward(x), kernel)


def _strided_backward(saved: Saved, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    x, gradient = cpu_barrier((x, gradient))
    (x_gradient,) = jax.vjp(lambda x: plain.strided_conv3x3(x, kernel), x)[1](gradient)
    forms = _kernel_gradient_by_products, _kernel_gradient
    return x_gradient, traced_late(*forms, shapes_of(kernel), x, kernel, gradient, platform="cpu")


def _kernel_gradient(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> jax.Array:
    return jax.vjp(lambda kernel: plain.strided_conv3x3(x, kernel), kernel)[1](gradient)[0]


def _kernel_gradient_by_products(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> jax.Array:
    def add(total: jax.Array, image: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        x, gradient = image
        height, width = (2 * side - 1 for side in gradient.shape[:2])
        x = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
        shifts = [x[row : row + height : 2, column : column + width : 2] for row in range(3) for column in range(3)]
        columns = cpu_barrier(jnp.concatenate(shifts, -1))  # (H/2, W/2, 9C)
        # XLA:CPU has to transpose a factor.
        smaller, larger = (gradient, columns) if outputs < inputs else (columns, gradient)
        transposed = cpu_barrier(rearrange(smaller, "h w c -> c h w"))
        return total + jnp.einsum("chw,hwd->cd", transposed, larger, preferred_element_type=total.dtype), None

    inputs, outputs = 9 * kernel.shape[2], kernel.shape[3]
    zeros = jnp.zeros(sorted((inputs, outputs)), wide_type(x.dtype))
    zeros, x, gradient = varying_alike((zeros, x, gradient))
    total, _ = jax.lax.scan(add, zeros, (x, gradient))
    return (total.T if outputs < inputs else total).reshape(kernel.shape).astype(kernel.dtype)


strided_conv3x3.defvjp(_strided_forward, _strided_backward)


def strided_conv3x3_by_rows(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C D"]
) -> Float[Array, "B (H+1)//2 (W+1)//2 D"]:
    """The value of `strided_conv3x3` by products in the kernel's type; XLA:CPU's convolutions of bfloat16 use float32.

    Of three columns that are multiplied together the last two are neighbors in memory.
    """
    height, width = ((side + 1) // 2 for side in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (1, 2 * height - x.shape[1]), (1, 2 * width - x.shape[2]), (0, 0)))
    multiply = functools.partial(jnp.einsum, "Bhwi,io->Bhwo", preferred_element_type=x.dtype)
    x, terms = x.astype(kernel.dtype), []
    for row, taps in enumerate(kernel):
        rows = x[:, row : row + 2 * height - 1 : 2]
        pairs = rearrange(rows[:, :, 1:], "B h (w two) C -> B h w (two C)", two=2)
        terms.append(multiply(rows[:, :, : 2 * width - 1 : 2], taps[0]))
        terms.append(multiply(pairs, rearrange(taps[1:], "two C D -> (two C) D")))
    return functools.reduce(jax.lax.add, terms)


def max_pool3x3(x: Float[Array, "B H W C"], padding_value: float) -> Float[Array, "B (H+1)//2 (W+1)//2 C"]:
    """Max-pooling 3x3 of stride 2 and padding 1.

    The maximum is taken along the rows and then along the columns, since the gradient of a window reduction is slow on
    CPUs.
    `padding_value` is -inf in PyTorch and 0 in the TensorFlow and Keras implementations, which differs at edges where
    every value is negative.
    """
    x = save_for_backward(x)
    for axis in (1, 2):
        spread = [(0, 0)] * 4
        spread[axis] = (1, 1)
        padded = jnp.pad(x, spread, constant_values=padding_value)
        size = x.shape[axis]
        x = functools.reduce(
            jnp.maximum, (jax.lax.slice_in_dim(padded, start, start + size, 2, axis) for start in range(3))
        )
    return x
