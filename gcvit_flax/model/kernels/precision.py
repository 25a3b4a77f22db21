"""The precision of statistics, softmax and sums: float32, or float64 where the network computes in that."""

from typing import Any

import jax
import jax.numpy as jnp


def wide_type(dtype: Any) -> Any:
    """The type to compute in what would lose too much in `dtype`."""
    return jnp.promote_types(dtype, jnp.float32)


def widen(x: jax.Array) -> jax.Array:
    """`x` in its `wide_type`."""
    return x.astype(wide_type(x.dtype))
