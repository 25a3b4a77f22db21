"""Writes model folders: a model's parameters as an Orbax checkpoint, and config.json, which points to it."""

import contextlib
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from gcvit_flax.atomic import replace_text, replacing_folder
from gcvit_flax.errors import UserError
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.model.tree import flat_parameters
from gcvit_flax.storage import absolute, children, is_remote
from gcvit_flax.weights.folder_config import (
    FOLDER_CONFIG_NAME,
    folder_config_text,
    is_model_folder,
    make_folder_config,
)
from gcvit_flax.weights.params_checkpoint import save_params

_CHECKPOINT_PREFIX = "params-"


def save_model(
    path: epath.PathLike,
    model: GCViT,
    variables: Mapping[str, Any],
    *,
    class_names: Sequence[str] | None = None,
    provenance: Mapping[str, Any] | None = None,
    weights_licence: str | None = None,
) -> None:
    """Writes `variables["params"]`, as float32, and the description of `model` into the folder `path`, all or nothing.

    An earlier model folder is replaced. Of several processes, only one may call it.

    Raises:
      UserError: `path` holds something else, or the parameters or class names do not fit the model.
    """
    folder = absolute(path)
    exists = folder.exists() and not _is_unfinished(folder)
    if exists and not is_model_folder(folder):
        raise UserError(f"{path} exists and is not a model folder: choose another path or remove it")
    if model.fused:
        raise UserError("a model with fused parameters cannot be saved: save the original, and fuse it after loading")
    # NumPy arrays, so no sharding is stored.
    flat = {name: np.asarray(value, np.float32) for name, value in flat_parameters(model, variables).items()}
    folder_config = make_folder_config(
        model,
        class_names=class_names,
        provenance=provenance,
        weights_licence=weights_licence,
        parameter_count=sum(value.size for value in flat.values()),
        checkpoint=_CHECKPOINT_PREFIX + uuid.uuid4().hex[:8],
    )
    # An earlier folder is updated in place, so that it can be loaded at any moment.
    with contextlib.nullcontext(folder) if exists else replacing_folder(folder) as written:
        _write(written, folder_config, flat)


def _write(folder: epath.Path, folder_config: Mapping[str, Any], flat: Mapping[str, np.ndarray]) -> None:
    """Adds a checkpoint to `folder`, then points config.json to it: replacing that one file is the commit."""
    text = folder_config_text(folder_config)
    folder.mkdir(parents=True, exist_ok=True)
    save_params(folder / folder_config["checkpoint"], flat)
    replace_text(folder / FOLDER_CONFIG_NAME, text)
    for other in folder.iterdir():  # Earlier ones, and what is left of a process that was killed.
        if other.name.startswith(_CHECKPOINT_PREFIX) and other.name != folder_config["checkpoint"]:
            other.rmtree(missing_ok=True)


def _is_unfinished(folder: epath.Path) -> bool:
    """Whether the first save into `folder`, in an object store, was killed before it wrote config.json."""
    return is_remote(folder) and all(path.name.startswith(_CHECKPOINT_PREFIX) for path in children(folder))
