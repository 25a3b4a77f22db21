"""Kernels in bfloat16 inside of a float32 network: products with them are faster on CPUs with instructions for them.

Only the operands of products are rounded. Their sums, and all else that the network computes, keep the layers' type.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype


def is_narrower(kernel: jax.Array, dtype: Any) -> bool:
    """Whether a layer that computes in `dtype`, float32, multiplies by its `kernel` in the kernel's type, bfloat16."""
    return kernel.dtype == jnp.bfloat16 and dtype == jnp.float32


def promote_but_kernels(*arrays: jax.Array | None, dtype: Any = None, inexact: bool = True) -> list[jax.Array | None]:
    """A layer's inputs, kernel and bias in `dtype`, but for a kernel that `is_narrower`."""
    _, kernel, _ = arrays
    x, promoted, bias = promote_dtype(*arrays, dtype=dtype, inexact=inexact)
    return [x, kernel if kernel is not None and is_narrower(kernel, dtype) else promoted, bias]
