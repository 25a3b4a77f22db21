"""An open weight file to our configuration and flat parameters; every tensor must be used, every parameter filled."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gcvit_flax.config import GCViTConfig, Size
from gcvit_flax.errors import UserError
from gcvit_flax.model.tree import check_same_names_and_shapes, listing, parameter_shapes
from gcvit_flax.variants import VARIANTS, variant_name
from gcvit_flax.weights.infer import infer_config
from gcvit_flax.weights.matching import column, match, names_in
from gcvit_flax.weights.names import Row
from gcvit_flax.weights.recognize import WeightFile
from gcvit_flax.weights.tensors import check_dtypes, shape_as_ours, to_ours

# Constructor arguments in a .keras file that shapes do not show, and our fields.
_SETTINGS = {
    "drop_rate": "dropout_rate",
    "attn_drop": "attention_dropout_rate",
    "attention_dropout": "attention_dropout_rate",
    "path_drop": "drop_path_rate",
    "layer_scale": "layer_scale",
    "qk_scale": "qk_scale",
}

Names = Mapping[str, tuple[str, Row]]


def read_config(weight_file: WeightFile, path: Path, image_size: Size | None) -> tuple[GCViTConfig, Names]:
    """The configuration that follows from the names and shapes in `weight_file`, and our name -> (the file's, its row).

    `image_size`, (height, width) in pixels, decides if two are possible.

    Raises:
      UserError: missing, unexpected or misshapen tensors, listed by the file's names, or a wrong dtype.
    """
    shapes = {name: tensor.shape for name, tensor in weight_file.tensors.items()}
    names, unknown = match(shapes, column(weight_file.family))
    ours = {name: shape_as_ours(shapes[label], row.kind, weight_file.torch) for name, (label, row) in names.items()}
    config = infer_config(ours, image_size=image_size, stored_size=weight_file.image_size)
    expected = parameter_shapes(config)

    missing = names_in(weight_file.family, expected.keys() - names.keys())
    labels = {name: label for name, (label, _) in {**missing, **names}.items()}
    found: dict[str, Any] = {labels[name]: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in ours.items()}
    found |= {name: weight_file.tensors[name] for name in unknown}
    wanted = {labels[name]: leaf for name, leaf in expected.items()}
    check_same_names_and_shapes(found, wanted, f"{path} is not one whole GCViT", "give a complete, unmodified file")
    check_dtypes({label: weight_file.tensors[label] for label, _ in names.values()})
    return _with_settings(config, weight_file, path), names


def read_parameters(
    weight_file: WeightFile, path: Path, names: Names, *, allow_nonfinite: bool
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Our flat float32 parameters, and a line for each change or peculiarity of the values.

    Raises:
      UserError: NaN or infinity, unless `allow_nonfinite`; values that cannot be read.
    """
    flat: dict[str, np.ndarray] = {}
    half, nonfinite = [], []
    for name, (label, row) in names.items():
        tensor = weight_file.tensors[label]
        values = to_ours(tensor.read(), row.kind, weight_file.torch)
        flat[name] = np.array(values, np.float32, order="C", copy=None)
        if tensor.dtype != np.float32:
            half.append(str(tensor.dtype))
        if not np.isfinite(flat[name]).all():
            nonfinite.append(label)
    notes = [f"{half.count(kind)} {kind} tensors cast to float32" for kind in sorted(set(half))]
    if nonfinite:
        found = f"NaN or infinity in {len(nonfinite)} tensors: {listing(sorted(nonfinite))}"
        if not allow_nonfinite:
            raise UserError(f"{path} has {found}; expected finite weights, pass --allow-nonfinite to take them")
        notes.append(found)
    return flat, notes


def _with_settings(config: GCViTConfig, weight_file: WeightFile, path: Path) -> GCViTConfig:
    """`config` with the settings that shapes do not show: those in a .keras file, else the variant's drop path rate."""
    pooling = weight_file.settings.get("global_pool", "avg")
    if pooling != "avg":
        raise UserError(f"{path} pools with global_pool={pooling!r}: only models with 'avg' can be converted")
    known: dict[str, Any] = {
        field: value
        for argument, field in _SETTINGS.items()
        if isinstance(value := weight_file.settings.get(argument), int | float) and not isinstance(value, bool)
    }
    if config.layer_scale is None:
        known.pop("layer_scale", None)
    name = variant_name(config)
    if name is not None:
        known = {"drop_path_rate": VARIANTS[name].drop_path_rate, **known}
    return dataclasses.replace(config, **known)
