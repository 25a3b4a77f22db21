"""What the backward pass has from memory, and what it computes again (Chen et al., 2016)."""

from collections.abc import Callable

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

_KEPT = "kept"


def keep(arrays):
    """Marks arrays that the backward pass shall have from memory: the results of products, convolutions and sums."""
    return jax.tree.map(lambda x: checkpoint_name(x, _KEPT), arrays)


def recomputing(function: Callable, everything: bool) -> Callable:
    """`function` (module, ...), of which the backward pass computes again what is not marked by `keep`, or everything.

    What is not marked takes as long to write and read as to compute: norms, GELUs, sums.
    """
    policy = None if everything else jax.checkpoint_policies.save_only_these_names(_KEPT)
    return nn.remat(function, policy=policy)
