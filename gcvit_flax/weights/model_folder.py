"""Model folders: config.json beside an Orbax checkpoint of the parameters; opens with no other information."""

import dataclasses
import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from gcvit_flax.atomic import replace_text
from gcvit_flax.config import GCViTConfig, Preprocessing, as_pair
from gcvit_flax.errors import UserError
from gcvit_flax.model.gcvit import GCViT
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
    """Writes `variables["params"]`, as float32, and all about `model` into the folder `path`, all or nothing.

    A model folder that is there already is replaced. Of several processes, call it in the first alone. gs:// paths go
    through etils and are untested.

    Raises:
      UserError: `path` holds something else, or the parameters or class names do not fit the model.
    """
    folder = _absolute(path)
    if folder.exists() and not is_model_folder(folder):
        raise UserError(f"{path} exists and is not a model folder: choose another path or remove it")
    if model.fused:
        raise UserError("a model with fused parameters cannot be saved: save the original, and fuse it after loading")
    flat = flatten(variables["params"])
    check_same_names_and_shapes(
        flat, parameter_shapes(model.config), "the parameters do not fit the model", "save them as is"
    )
    # On the host, so that no sharding is stored.
    flat = {name: np.asarray(value, np.float32) for name, value in flat.items()}
    folder_config = make_folder_config(
        model,
        class_names=class_names,
        provenance=provenance,
        weights_licence=weights_licence,
        parameter_count=sum(value.size for value in flat.values()),
        checkpoint=_CHECKPOINT_PREFIX + uuid.uuid4().hex[:8],
    )
    if folder.exists():
        _write(folder, folder_config, flat)
        return
    partial = folder.parent / f".{folder.name}.partial"
    partial.rmtree(missing_ok=True)
    try:
        _write(partial, folder_config, flat)
        partial.rename(folder)
    except BaseException:
        partial.rmtree(missing_ok=True)
        raise


def _write(folder: epath.Path, folder_config: Mapping[str, Any], flat: Mapping[str, np.ndarray]) -> None:
    """Adds a checkpoint to `folder`, then points config.json at it: replacing that one file is the commit."""
    text = folder_config_text(folder_config)
    folder.mkdir(parents=True, exist_ok=True)
    save_params(folder / folder_config["checkpoint"], flat)
    replace_text(folder / FOLDER_CONFIG_NAME, text)
    for other in folder.glob(f"{_CHECKPOINT_PREFIX}*"):
        if other.name != folder_config["checkpoint"]:
            other.rmtree(missing_ok=True)


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
    """The model in the folder `path` and its variables (float32, on the default device), adapted as asked.

    Each change is logged. Another `image_size` (pixels, an int or (height, width)) resamples the relative position
    bias tables to the windows that `resolve_config` gives it; another `num_classes` starts a new head from `seed`;
    `reference` sets both of its settings. gs:// paths go through etils and are untested.

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
    # One at a time, so that no parameter is in memory twice for long; jnp.asarray would take ten times as long.
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
    """The model of the folder `path` with `load_model`'s changes, without reading its parameters.

    Raises:
      UserError: `path` is not a model folder, or a change does not fit its network.
    """
    config, preprocessing = parse_folder_config(
        read_folder_config(_absolute(path)), _absolute(path) / FOLDER_CONFIG_NAME
    )
    changes = {name: value for name, value in {**changes, "image_size": image_size}.items() if value is not None}
    config = resolve_config(config, reference=reference, **changes)
    if image_size is not None:
        preprocessing = dataclasses.replace(preprocessing, image_size=as_pair("image_size", image_size))
    return GCViT(config, preprocessing, dtype=dtype, remat=remat)


def adapted_params(path: epath.PathLike, config: GCViTConfig, seed: int) -> dict[str, np.ndarray]:
    """The flat parameters of the folder `path`, on the host, made to fit `config`; each change is logged.

    Raises:
      UserError: `path` is not a model folder or is damaged, or its weights cannot be made to fit.
    """
    saved_config, _, flat = read_folder(path)
    flat, notes = adapt(flat, saved_config, config, seed=seed)
    for note in notes:
        logger.info("%s: %s", path, note)
    return flat


def read_folder(path: epath.PathLike) -> tuple[GCViTConfig, Preprocessing, dict[str, np.ndarray]]:
    """What the folder `path` holds, as it is: configuration, preprocessing and flat parameters on the host.

    Raises:
      UserError: `path` is not a model folder or is damaged.
    """
    folder = _absolute(path)
    folder_config = read_folder_config(folder)
    config, preprocessing = parse_folder_config(folder_config, folder / FOLDER_CONFIG_NAME)
    return config, preprocessing, restore_params(folder / folder_config["checkpoint"], config)


def _absolute(path: epath.PathLike) -> epath.Path:
    path = os.fspath(path)
    return epath.Path(path if "://" in path else os.path.abspath(path))
