"""Model folder to weight file: the same tensors with another program's names, axes and container."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gcvit_flax.atomic import replacing_file
from gcvit_flax.config import GCViTConfig
from gcvit_flax.errors import UserError
from gcvit_flax.model.position_bias import relative_position_index
from gcvit_flax.references import FORWARD_PASSES
from gcvit_flax.storage import check_on_disk
from gcvit_flax.variants import resolve_config, variant_name
from gcvit_flax.weights.conversion_report import FAMILIES
from gcvit_flax.weights.convert import check_dest
from gcvit_flax.weights.keras_config import keras_config
from gcvit_flax.weights.keras_file import write_keras_zip, write_weights_h5
from gcvit_flax.weights.matching import names_in
from gcvit_flax.weights.model_folder import read_folder
from gcvit_flax.weights.pretrained import find_model_folder
from gcvit_flax.weights.safetensors_file import write_safetensors
from gcvit_flax.weights.tensors import from_ours
from gcvit_flax.weights.torch_writer import write_torch

TARGETS = ("keras_io", "gcvit_tf", "official", "timm")
_QUERY_STAGES = (3, 2, 0, 0)  # The only ones that the other implementations build.
_KERAS_SUFFIXES = (".keras", ".weights.h5")
_TORCH_SUFFIXES = (".safetensors", ".pth", ".pth.tar")


def write_weights(
    folder: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    target: str,
    *,
    reference: str | None = None,
    force: bool = False,
) -> str:
    """Writes the model folder `folder` as the weight file `dest` for `target`, one of TARGETS; returns a report.

    `reference` replaces the folder's own; `force` replaces `dest`, all or nothing.

    Raises:
      UserError: `target` cannot express the configuration, or `dest` has a wrong type or exists.
    """
    check_on_disk(dest)
    dest = Path(dest)
    check_dest(dest, force)
    suffixes = _KERAS_SUFFIXES if target in ("keras_io", "gcvit_tf") else _TORCH_SUFFIXES
    if not dest.name.endswith(suffixes):
        raise UserError(f"{dest} does not have the type of {target} files: end its name in {' or '.join(suffixes)}")
    found = read_folder(find_model_folder(folder))
    config = resolve_config(found.config, reference=reference)
    check_expressible(config, target)
    tensors = _tensors(found.flat, config, target)
    weights_license = found.folder_config["weights_licence"]
    dest.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(dest) as draft:
        if dest.name.endswith((".pth", ".pth.tar")):
            write_torch(Path(draft), tensors, weights_license)
        elif dest.name.endswith(".safetensors"):
            write_safetensors(Path(draft), tensors, {"licence": weights_license} if weights_license else {})
        elif dest.name.endswith(".keras"):
            write_keras_zip(Path(draft), tensors, keras_config(config, target))
        else:
            write_weights_h5(Path(draft), tensors)
    return _report(dest, target, config, tensors)


def check_expressible(config: GCViTConfig, target: str) -> None:
    """Raises UserError unless `target`'s program can build a network of `config`."""
    flattened = config.relative_position_bias == "flattened"
    rounded = [dim for dim in config.dims if (dim // 4) % 8]
    problems = {
        f"query stages {config.query_stages}, it always builds {_QUERY_STAGES}": config.query_stages != _QUERY_STAGES,
        f"windows {config.window_size}, it has only square ones": any(
            height != width for height, width in config.window_size
        ),
        "a flattened position bias, it has one per head (give --reference if these weights are not meant for it)": (
            flattened and target != "keras_io"
        ),
        f"qk_scale {config.qk_scale}, it has none": config.qk_scale is not None and target == "timm",
        "no head (num_classes=0), it has one: load it with num_classes=N and save it first": (
            not config.num_classes and target in ("keras_io", "gcvit_tf")
        ),
        f"widths {rounded}, it rounds their quarters to multiples of 8": target == "timm" and bool(rounded),
    }
    for problem, present in problems.items():
        if present:
            raise UserError(f"{FAMILIES[target]} cannot express this model: {problem}")


def _tensors(flat: Mapping[str, np.ndarray], config: GCViTConfig, target: str) -> dict[str, np.ndarray]:
    tensors = {}
    for name, (label, row) in names_in(target, flat).items():
        tensors[label] = np.ascontiguousarray(from_ours(flat[name], row.kind, target))
        if target == "official" and label.endswith(".relative_position_bias_table"):
            # The release has a buffer of indices, which its strict loading expects.
            window = config.window_size[int(label.split(".")[1])]
            index = label.replace("_bias_table", "_index")
            tensors[index] = relative_position_index(window).astype(np.int64)
    return tensors


def _report(dest: Path, target: str, config: GCViTConfig, tensors: Mapping[str, np.ndarray]) -> str:
    lines = {
        "model": variant_name(config) or "no published variant",
        "format": f"{''.join(dest.suffixes[-2:]).lstrip('.')} of {FAMILIES[target]}",
        "tensors": f"{len(tensors)}",
        "written": f"{dest} ({dest.stat().st_size:,} bytes)",
    }
    own = "official" if target == "timm" else target
    if config.reference != own:
        lines["notice"] = (
            f"this model's reference is {config.reference or 'a mixture'}; {FAMILIES[target]} computes "
            f"{FORWARD_PASSES[own].computes}, so its logits will differ"
        )
    return "\n".join(f"{key:<11}{value}" for key, value in lines.items())
