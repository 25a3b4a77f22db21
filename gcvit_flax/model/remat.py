"""What the backward pass has from memory, and what it computes again (Chen et al., 2016)."""

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

_KEPT = "kept"


def keep(arrays):
    """Marks arrays that the backward pass shall have from memory: the results of products, convolutions and sums."""
    return jax.tree.map(lambda x: checkpoint_name(x, _KEPT), arrays)


def call(module: nn.Module, *arguments, enabled: bool, everything: bool, **options):
    """`module(*arguments, **options)`, of which the backward pass computes again what is not marked by `keep`.

    That takes as long to write and read as to compute: norms, GELUs, sums. With `everything` marks do not count.
    Where nothing is trained, leave it out (`enabled`): the program is the same and takes half the time to trace.
    """
    if not enabled:
        return module(*arguments, **options)
    policy = None if everything else jax.checkpoint_policies.save_only_these_names(_KEPT)
    return nn.remat(lambda module, *arguments: module(*arguments, **options), policy=policy)(module, *arguments)
