"""Gradient accumulation: a batch in parts, computed one after the other."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from einops import rearrange

Batch = dict[str, Any]
Tree = TypeVar("Tree")


def sum_over_parts(gradients: Callable[[Batch, Any], Tree], batch: Batch, parts: int) -> Tree:
    """The sum of `gradients(part of batch, its number)` over equal parts, computed one after the other."""
    split = {name: rearrange(x, "(parts b) ... -> parts b ...", parts=parts) for name, x in batch.items()}
    shapes = jax.eval_shape(gradients, {name: x[0] for name, x in split.items()}, 0)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(sums: Tree, part: tuple[Batch, jax.Array]) -> tuple[Tree, None]:
        return jax.tree.map(jnp.add, sums, gradients(*part)), None

    sums, _ = jax.lax.scan(add, zeros, (split, jnp.arange(parts)))
    return sums
