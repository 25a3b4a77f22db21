"""Parameter trees as flat dicts, "levels_0/blocks_1/attn/qkv/kernel" -> array, and the strict comparison of two."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from gcvit_flax.config import GCViTConfig
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
    return flatten_dict(params, sep="/")


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The nested tree of {"a/b/c": leaf}: the inverse of `flatten`."""
    return unflatten_dict(dict(flat), sep="/")


def parameter_shapes(config: GCViTConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Name -> shape and dtype of each parameter of `config`'s network; nothing is computed."""
    # Blocks alternate between two kinds, so two per level stand for all of them: tracing every one would take seconds.
    short = dataclasses.replace(config, depths=tuple(min(depth, 2) for depth in config.depths), **_SHAPELESS)
    shapes = flatten(abstract_params(GCViT(short)))
    repeated: dict[str, jax.ShapeDtypeStruct] = {}
    for level, depth in enumerate(config.depths):
        for block in range(2, depth):
            like, prefix = f"levels_{level}/blocks_{block % 2}/", f"levels_{level}/blocks_{block}/"
            repeated |= {
                prefix + name.removeprefix(like): leaf for name, leaf in shapes.items() if name.startswith(like)
            }
    return {**shapes, **repeated}


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


def _shape(leaf: Any) -> tuple[int, ...]:
    return tuple(leaf.shape)
