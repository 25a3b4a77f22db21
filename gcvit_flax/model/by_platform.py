"""Parts of the network that are kernels in a program for TPUs and layers in others."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax


def by_platform(
    module: nn.Module,
    params: Mapping[str, Any],
    kernel: Callable[..., jax.Array],
    method: str,
    *inputs: jax.Array | None,
    **options: Any,
) -> Any:
    """`kernel(params, *inputs)` in a program for TPUs, otherwise `module.method(*inputs, **options)` by `params`.

    By parameters, since a branch of `platform_dependent` cannot call a module that was bound outside.
    """
    unbound = module.clone(parent=None, name=None)

    def by_layers(params: Mapping[str, Any], *inputs: jax.Array | None) -> Any:
        return unbound.apply({"params": params}, *inputs, method=method, **options)

    return jax.lax.platform_dependent(params, *inputs, tpu=kernel, default=by_layers)


def is_watched(module: nn.Module) -> bool:
    """Whether what only the layers can give is asked for: parameters to be made, or values within the module."""
    return any(map(module.is_mutable_collection, ("attention", "intermediates", "params", "perturbations")))
