"""The product of a dense layer, or a 1x1 convolution, with its kernel."""

import functools
from typing import Any

import jax
from jaxtyping import Array, Float

from gcvit_flax.model.kernels import plain
from gcvit_flax.model.kernels.custom_gradient import custom_gradient


def dense_dot_general(x: jax.Array, kernel: jax.Array, dimension_numbers: Any, precision: Any = None) -> jax.Array:
    """`dense` in the form of `jax.lax.dot_general`, as linen's dense layers call it."""
    assert dimension_numbers == (((x.ndim - 1,), (0,)), ((), ()))
    return dense(x, kernel, precision)


@custom_gradient(nondiff_argnums=(2,))
def dense(x: Float[Array, "*axes C"], kernel: Float[Array, "C D"], precision: Any) -> Float[Array, "*axes D"]:
    """The matrix product in the kernel's type; the sums and the result have the type of `x`.

    On a CPU the gradients are those of two matrices, with all tokens in one axis: with more axes XLA:CPU first
    transposes the cotangent, channels first, for the kernel's gradient, which takes up to 2.2 times as long.
    """
    return plain.dense(x, kernel, precision)


def _backward(precision: Any, saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    def gradients(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(functools.partial(plain.dense, precision=precision), x, kernel)[1](gradient)

    def flat_gradients(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        tokens, token_gradients = (array.reshape(-1, array.shape[-1]) for array in (x, gradient))
        x_gradient, kernel_gradient = gradients(tokens, kernel, token_gradients)
        return x_gradient.reshape(x.shape), kernel_gradient

    return jax.lax.platform_dependent(*saved, gradient, cpu=flat_gradients, default=gradients)


dense.defvjp(lambda x, kernel, precision: (dense(x, kernel, precision), (x, kernel)), _backward)
