"""Optimization barriers for CPUs alone: other compilers fuse what reads an array without computing it again."""

from typing import TypeVar

import jax

Arrays = TypeVar("Arrays")


@jax.jit  # So that it is traced once for arrays of a shape.
def cpu_barrier(arrays: Arrays) -> Arrays:
    """`arrays`, which XLA:CPU writes to memory once and does not merge with what it computed earlier."""
    return jax.lax.platform_dependent(arrays, cpu=jax.lax.optimization_barrier, default=lambda arrays: arrays)
