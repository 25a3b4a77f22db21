"""What the backward pass reads from memory and what it computes again (Chen et al., 2016).

Each kernel marks what its gradient reads: outputs of matrix products and convolutions, residual sums, softmax weights
and the statistics of layer norms. The outputs of layer norms and GELUs are recomputed, which takes as long as reading
them from memory.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

_SAVED = "saved"

Arrays = TypeVar("Arrays")
Policy = Callable[..., bool]


def save_for_backward(arrays: Arrays) -> Arrays:
    """Marks an array, or a tree of arrays, to be stored for the backward pass under `rematerialization_policy`.

    Compute with the result: what is computed from the unmarked array makes the backward pass compute that again.
    """
    return jax.tree.map(lambda x: checkpoint_name(x, _SAVED), arrays)


def rematerialization_policy(*, train: bool, remat: bool) -> Policy | None:
    """What a backward pass stores: with `remat` only the inputs of modules, otherwise what `save_for_backward` marks.

    None if nothing is trained and `remat` is off: the program is the same, and tracing it takes half the time.
    """
    if remat:
        return jax.checkpoint_policies.nothing_saveable
    return jax.checkpoint_policies.save_only_these_names(_SAVED) if train else None


def rematerialize(
    module: nn.Module, *arguments: Any, policy: Policy | None, method: str = "__call__", **options: Any
) -> Any:
    """`module.method(*arguments, **options)`, whose backward pass computes again what `policy` does not store."""
    if policy is None:
        return getattr(module, method)(*arguments, **options)
    apply = nn.remat(lambda module, *arguments: getattr(module, method)(*arguments, **options), policy=policy)
    return apply(module, *arguments)
