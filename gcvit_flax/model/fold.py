"""Inference with all that depends on parameters alone computed beforehand."""

import dataclasses

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from gcvit_flax.model.attention import relative_position_bias
from gcvit_flax.model.gcvit import GCViT


def fold_for_inference(model: GCViT, variables: dict) -> tuple[GCViT, dict]:
    """A model and variables of the same logits (to rounding), with less to compute: `model.apply` as before.

    The attention scale goes into the projection to queries (to keys where the query is global), layer scale into the
    layers before it, and bias tables become biases (h, T, T). What is folded cannot be taken apart: keep the original
    for training and conversion.
    """
    config = model.config
    # What changes does so on the host, in NumPy: as JAX operations, each would be compiled. The rest is shared.
    folded = flatten_dict(variables["params"], sep="/")
    for level, depth in enumerate(config.depths):
        channels, heads = config.dims[level], config.num_heads[level]
        scale = (channels // heads) ** -0.5 if config.qk_scale is None else config.qk_scale
        for index in range(depth):
            block = f"levels_{level}/blocks_{index}"
            for name in ("kernel", "bias") if config.qkv_bias else ("kernel",):
                path = f"{block}/attn/qkv/{name}"
                # Queries come first in a local block, keys in a global one.
                scales = np.where(np.arange(folded[path].shape[-1]) < channels, np.float32(scale), np.float32(1))
                folded[path] = np.asarray(folded[path]) * scales
            if config.relative_position_bias != "gathered":
                table = np.asarray(folded.pop(f"{block}/attn/relative_position_bias_table"))
                bias = relative_position_bias(table, config.window_size[level], config.relative_position_bias)
                folded[f"{block}/attn/relative_position_bias"] = np.broadcast_to(bias, (heads, *bias.shape[1:]))
            if config.layer_scale is not None:
                for gamma, layer in (("gamma1", "attn/proj"), ("gamma2", "mlp/fc2")):
                    factors = np.asarray(folded.pop(f"{block}/{gamma}"))
                    for name in ("kernel", "bias"):
                        path = f"{block}/{layer}/{name}"
                        folded[path] = np.asarray(folded[path]) * factors
    config = dataclasses.replace(config, qk_scale=1.0, layer_scale=None, relative_position_bias="gathered")
    return model.clone(config=config), {"params": jax.device_put(unflatten_dict(folded, sep="/"))}
