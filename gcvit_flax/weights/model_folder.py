"""Model folders: config.json beside an Orbax checkpoint of the parameters, which need nothing else to be loaded."""

import contextlib
import dataclasses
import logging
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from gcvit_flax.atomic import replace_text, replacing_folder
from gcvit_flax.config import GCViTConfig, Preprocessing, as_pair
from gcvit_flax.errors import UserError
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.storage import absolute, children, is_remote
from gcvit_flax.variants import resolve_config
from gcvit_flax.weights.adapt import adapt
from gcvit_flax.weights.folder_config import (
    FOLDER_CONFIG_NAME,
    folder_config_text,
    is_model_folder,
    make_folder_config,
    parse_folder_config,
    read_folder_config,
)
from gcvit_flax.weights.params_checkpoint import restore_params, save_params
from gcvit_flax.weights.tree import check_same_names_and_shapes, flatten, parameter_shapes, unflatten

logger = logging.getLogger("gcvit_flax")

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
    flat = flatten(variables["params"])
    check_same_names_and_shapes(
        flat, parameter_shapes(model.config), "the parameters do not fit the model", "save this model's own"
    )
    # NumPy arrays, so no sharding is stored.
    flat = {name: np.asarray(value, np.float32) for name, value in flat.items()}
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


def load_model(
    path: epath.PathLike,
    *,
    dtype: Any = jnp.float32,
    image_size: int | Sequence[int] | None = None,
    num_classes: int | None = None,
    reference: str | None = None,
    remat: bool = False,
    pad_to_windows: bool | None = None,
    seed: int = 0,
) -> tuple[GCViT, dict[str, Any]]:
    """The model in the folder `path` and its variables (float32, on the default device), adapted as requested.

    Each change is logged. Another `image_size` (pixels, an int or (height, width)) resamples the relative position
    bias tables to the windows that `resolve_config` chooses; another `num_classes` gives a new head, drawn from
    `seed`; `reference` sets both of its settings.

    Raises:
      UserError: `path` is not a model folder or is damaged, or a change does not fit its weights.
    """
    model = adapted_model(
        path,
        dtype=dtype,
        image_size=image_size,
        num_classes=num_classes,
        reference=reference,
        remat=remat,
        pad_to_windows=pad_to_windows,
    )
    flat = adapted_params(path, model.config, seed)
    # One at a time, so that not all parameters are in memory twice; jnp.asarray would take ten times as long.
    return model, {"params": unflatten({name: jax.device_put(flat.pop(name)) for name in list(flat)})}


def adapted_model(
    path: epath.PathLike,
    *,
    dtype: Any,
    remat: bool,
    reference: str | None = None,
    image_size: int | Sequence[int] | None = None,
    **changes: Any,
) -> GCViT:
    """The model in the folder `path` with the changes of `load_model`; its parameters are not read.

    Raises:
      UserError: `path` is not a model folder, or a change does not fit its network.
    """
    config, preprocessing = parse_folder_config(read_folder_config(absolute(path)), absolute(path) / FOLDER_CONFIG_NAME)
    changes = {name: value for name, value in {**changes, "image_size": image_size}.items() if value is not None}
    config = resolve_config(config, reference=reference, **changes)
    if image_size is not None:
        preprocessing = dataclasses.replace(preprocessing, image_size=as_pair("image_size", image_size))
    return GCViT(config, preprocessing, dtype=dtype, remat=remat)


def adapted_params(path: epath.PathLike, config: GCViTConfig, seed: int) -> dict[str, np.ndarray]:
    """The flat parameters in the folder `path`, as NumPy arrays, adapted to `config`; each change is logged.

    Raises:
      UserError: `path` is not a model folder or is damaged, or its weights cannot be adapted.
    """
    saved_config, _, flat = read_folder(path)
    flat, notes = adapt(flat, saved_config, config, seed=seed)
    for note in notes:
        logger.info("%s: %s", path, note)
    return flat


def read_folder(path: epath.PathLike) -> tuple[GCViTConfig, Preprocessing, dict[str, np.ndarray]]:
    """The content of the folder `path`: configuration, preprocessing and flat parameters as NumPy arrays.

    Raises:
      UserError: `path` is not a model folder or is damaged.
    """
    folder = absolute(path)
    folder_config = read_folder_config(folder)
    while True:
        config, preprocessing = parse_folder_config(folder_config, folder / FOLDER_CONFIG_NAME)
        try:
            return config, preprocessing, restore_params(folder / folder_config["checkpoint"], config)
        except UserError:
            before, folder_config = folder_config, read_folder_config(folder)
            if folder_config["checkpoint"] == before["checkpoint"]:
                raise
            # The model was saved again, by a training run for example, which removed the earlier checkpoint.
