"""What the backward pass keeps of the forward pass, and what it computes again."""

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

_KEPT = "kept"


def keep(x):
    """Marks an array that the backward pass shall have from memory."""
    return jax.tree.map(lambda x: checkpoint_name(x, _KEPT), x)


def recomputing(function, everything: bool = False):
    """`function` (module, ...) such that its backward pass computes again all that `keep` has not marked."""
    policy = None if everything else jax.checkpoint_policies.save_only_these_names(_KEPT)
    return nn.remat(function, policy=policy)
