"""The product of a dense layer, or a 1x1 convolution, with its kernel."""

from typing import Any

import jax
from jaxtyping import Array, Float

from gcvit_flax.model.kernels.custom_gradient import custom_gradient


def product(x: jax.Array, kernel: jax.Array, dimension_numbers: Any, precision: Any = None) -> jax.Array:
    """`dense` in the form of `jax.lax.dot_general`, as linen's dense layers call it."""
    assert dimension_numbers == _dimensions(x)
    return dense(x, kernel, precision)


def _dimensions(x: jax.Array) -> Any:
    return ((x.ndim - 1,), (0,)), ((), ())


@custom_gradient(nondiff_argnums=(2,))
def dense(x: Float[Array, "*axes C"], kernel: Float[Array, "C D"], precision: Any) -> Float[Array, "*axes D"]:
    """The matrix product in the kernel's type; the sums and the result have the type of `x`.

    On a CPU its gradients are products of matrices, with all tokens in one axis: for an array of more axes XLA:CPU
    first writes the gradient again, with the channels first, and takes up to twice as long.
    """
    return _product(x, kernel, precision)


def _product(x: jax.Array, kernel: jax.Array, precision: Any) -> jax.Array:
    narrow = x.astype(kernel.dtype)
    return jax.lax.dot_general(narrow, kernel, _dimensions(x), precision, preferred_element_type=x.dtype)


def _backward(precision: Any, saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    def gradients(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(lambda x, kernel: _product(x, kernel, precision), x, kernel)[1](gradient)

    def flat_gradients(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        tokens, token_gradients = (array.reshape(-1, array.shape[-1]) for array in (x, gradient))
        x_gradient, kernel_gradient = gradients(tokens, kernel, token_gradients)
        return x_gradient.reshape(x.shape), kernel_gradient

    return jax.lax.platform_dependent(*saved, gradient, cpu=flat_gradients, default=gradients)


dense.defvjp(lambda x, kernel, precision: (dense(x, kernel, precision), (x, kernel)), _backward)
