"""Parameter trees as flat dicts, "levels_0/blocks_1/attn/qkv/kernel" -> array, and the strict comparison of two."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from gcvit_flax.config import LEVEL_STRIDES, GCViTConfig
from gcvit_flax.errors import UserError
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.model.init import abstract_params

# Defaults of the fields on which no parameter's shape depends, so that one network is traced for all values of them.
_SHAPELESS: dict[str, Any] = {
    "dropout_rate": 0.0,
    "attention_dropout_rate": 0.0,
    "drop_path_rate": 0.0,
    "qk_scale": None,
    "relative_position_bias": "per_head",
    "query_pool_padding": "-inf",
}
_SHOWN = 20  # Names in one error message; those of an unrelated file could fill screens.


def flatten(params: Mapping[str, Any]) -> dict[str, Any]:
    """A nested parameter tree as {"a/b/c": leaf}."""
    return {"/".join(map(str, path)): leaf for path, leaf in flatten_dict(params).items()}


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The nested tree of {"a/b/c": leaf}: the inverse of `flatten`."""
    return unflatten_dict(dict(flat), sep="/")


def flat_parameters(model: GCViT, variables: Any) -> dict[str, Any]:
    """The flat parameters in `variables`, {"params": tree}.

    Raises:
      UserError: `variables` is something else, or they are not those of `model`, whose parameters are not fused.
    """
    params = variables.get("params") if isinstance(variables, Mapping) else None
    if not isinstance(params, Mapping):
        found = f"a {type(variables).__name__}"
        if isinstance(variables, Mapping):
            found += f" of {listing(sorted(map(str, variables)), 3) or 'nothing'}"
        raise UserError(f'the variables are {found}: expected {{"params": parameters}}, as `load_model` returns them')
    flat = flatten(params)
    expected, what = parameter_shapes(model.config), "the parameters do not fit the model"
    check_same_names_and_shapes(flat, expected, what, "give this model's own")
    wrong = [name for name, leaf in flat.items() if not jnp.issubdtype(leaf.dtype, jnp.floating)]
    if wrong:
        raise UserError(f"{what}: {wrong[0]} is {flat[wrong[0]].dtype}, expected floating-point numbers")
    return flat


def parameter_shapes(config: GCViTConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Name -> shape and dtype of each parameter of `config`'s network; nothing is computed."""
    # Blocks alternate between two kinds, so two per level stand for all of them: tracing every one would take seconds.
    # Of windows only the tables depend, and tracing large ones would take memory.
    sides = _smallest_sides(config)
    depths = tuple(min(depth, 2) for depth in config.depths)
    short = dataclasses.replace(config, depths=depths, **sides, **_SHAPELESS)
    traced = flatten(abstract_params(GCViT(short)))
    shapes = dict(traced)
    for level, depth in enumerate(config.depths):
        rows = math.prod(2 * side - 1 for side in config.window_size[level])
        for block in range(depth):
            like, prefix = f"levels_{level}/blocks_{block % 2}/", f"levels_{level}/blocks_{block}/"
            shapes |= {prefix + name.removeprefix(like): leaf for name, leaf in traced.items() if name.startswith(like)}
            table = f"{prefix}attn/relative_position_bias_table"
            shapes[table] = jax.ShapeDtypeStruct((rows, config.num_heads[level]), shapes[table].dtype)
    return shapes


def _smallest_sides(config: GCViTConfig) -> dict[str, Any]:
    """The smallest image and windows of which all query stages are those of `config`."""
    windows_across = [2**stage for stage in config.query_stages]
    side = max(stride * count for stride, count in zip(LEVEL_STRIDES, windows_across, strict=True))
    windows = [(side // stride // count,) * 2 for stride, count in zip(LEVEL_STRIDES, windows_across, strict=True)]
    return {"image_size": side, "window_size": tuple(windows)}


def check_same_names_and_shapes(
    found: Mapping[str, Any], expected: Mapping[str, Any], what: str, advice: str, *, shown: int = _SHOWN
) -> None:
    """Raises UserError unless `found` and `expected` (name -> anything with a shape) have the same names and shapes.

    The error begins with `what`, lists the missing, unexpected and misshapen names, sorted, `shown` of each at most,
    and ends with `advice`.
    """
    both = sorted(found.keys() & expected.keys())
    other = [
        f"{name} {_shape(found[name])} instead of {_shape(expected[name])}"
        for name in both
        if _shape(found[name]) != _shape(expected[name])
    ]
    problems = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "of another shape": other,
    }
    listed = "; ".join(f"{len(names)} {kind}: {listing(names, shown)}" for kind, names in problems.items() if names)
    if listed:
        raise UserError(f"{what}: {listed}; {advice}")


def listing(names: Iterable[str], shown: int = _SHOWN) -> str:
    """Names for a message, comma-separated; of many, only the first."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _shape(leaf: Any) -> tuple[int, ...] | str:
    return tuple(leaf.shape) if hasattr(leaf, "shape") else type(leaf).__name__
