"""Computes everything that depends on the parameters alone before inference."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gcvit_flax.config import GCViTConfig
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.model.position_bias import is_expanded, relative_position_bias
from gcvit_flax.model.tree import flat_parameters, flatten, unflatten

_WIDE_KERNELS = ("head/kernel", "patch_embed/proj/kernel", "depthwise/kernel")


def fuse_parameters(model: GCViT, variables: dict[str, Any]) -> tuple[GCViT, dict[str, Any]]:
    """An equivalent model and variables, with the same logits up to rounding and less work per call.

    The attention scale is multiplied into the projection to queries (to keys where the query is global), layer scale
    into the layers before it, and the bias tables of each level become biases (h, T, T) where these take at most 1 GiB.
    Fusing is irreversible: keep the originals for training and conversion. A fused model is returned unchanged.

    Raises:
      UserError: (a ValueError) `variables` are not those of `model`.
    """
    if model.fused:
        return model, variables
    # What changes does so on the host, in NumPy: as JAX operations, each would be compiled. The rest is shared.
    params = flat_parameters(model, variables)
    for level, depth in enumerate(model.config.depths):
        for block in range(depth):
            _fuse_block(params, f"levels_{level}/blocks_{block}", model.config, level)
    return model.clone(fused=True), {"params": jax.device_put(unflatten(params))}


def narrow_kernels(model: GCViT, variables: dict[str, Any]) -> tuple[GCViT, dict[str, Any]]:
    """The model in float32, but for its kernels and what is multiplied by them (`kernels.narrow`), in bfloat16.

    The kernels of the head, the first and the depthwise convolutions are in float32. On CPUs this is faster than the
    network in bfloat16, and closer to the one in float32.
    """
    params = flatten(variables["params"])
    for name, values in params.items():
        narrow = name.endswith("/kernel") and not name.endswith(_WIDE_KERNELS)
        params[name] = np.asarray(values).astype(jnp.bfloat16 if narrow else jnp.float32)
    return model.clone(dtype=jnp.float32), {"params": jax.device_put(unflatten(params))}


def _fuse_block(params: dict[str, Any], block: str, config: GCViTConfig, level: int) -> None:
    channels, heads = config.dims[level], config.num_heads[level]
    scale = (channels // heads) ** -0.5 if config.qk_scale is None else config.qk_scale
    for name in ("kernel", "bias") if config.qkv_bias else ("kernel",):
        path = f"{block}/attn/qkv/{name}"
        # Queries come first in a local block, keys in a global one.
        scales = np.where(np.arange(params[path].shape[-1]) < channels, np.float32(scale), np.float32(1))
        params[path] = np.asarray(params[path]) * scales

    if is_expanded(config, level):
        table = np.asarray(params.pop(f"{block}/attn/relative_position_bias_table"))
        bias = relative_position_bias(table, config.window_size[level], config.relative_position_bias)
        params[f"{block}/attn/relative_position_bias"] = np.broadcast_to(bias, (heads, *bias.shape[1:]))

    if config.layer_scale is not None:
        for gamma, layer in (("gamma1", "attn/proj"), ("gamma2", "mlp/fc2")):
            factors = np.asarray(params.pop(f"{block}/{gamma}"))
            for name in ("kernel", "bias"):
                path = f"{block}/{layer}/{name}"
                params[path] = np.asarray(params[path]) * factors
