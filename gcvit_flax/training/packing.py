"""Parameters as training keeps them: kernels one by one, and all that is small in a single vector.

Two leaves in three are biases, norms, layer scales and bias tables, which hold one value in a hundred. Averaging and
updating each with operations of its own would make up a third of a training step's compile time.
"""

import itertools
import math

import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

KERNEL, REST = "kernel", "rest"


def pack(params) -> dict:
    """A parameter tree as {"kernel": {path: array}, "rest": vector}."""
    kernels, rest = split_kernels(params)
    return {KERNEL: kernels, REST: jnp.concatenate([jnp.ravel(x) for x in rest.values()])}


def unpack(packed: dict, like):
    """The tree that `pack` packed; `like` has its names and shapes."""
    _, rest = split_kernels(like)
    ends = list(itertools.accumulate(math.prod(x.shape) for x in rest.values()))
    pieces = jnp.split(packed[REST], ends[:-1])
    rest = {path: piece.reshape(x.shape) for (path, x), piece in zip(rest.items(), pieces, strict=True)}
    return unflatten_dict(packed[KERNEL] | rest, sep="/")


def split_kernels(params) -> tuple[dict, dict]:
    """The kernels of a parameter tree and all its other leaves, flat, by path."""
    flat = flatten_dict(params, sep="/")
    kernels = {path: x for path, x in flat.items() if path.endswith("/kernel")}
    return kernels, {path: flat[path] for path in sorted(flat.keys() - kernels.keys())}
