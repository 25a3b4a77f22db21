"""Model folders: config.json beside an Orbax checkpoint of the parameters, which need nothing else to be loaded."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from gcvit_flax.config import GCViTConfig, Preprocessing
from gcvit_flax.errors import UserError
from gcvit_flax.fields import as_pair
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.model.tree import unflatten
from gcvit_flax.storage import absolute
from gcvit_flax.variants import for_channels, resolve_config
from gcvit_flax.weights.adapt import adapt
from gcvit_flax.weights.folder_config import FOLDER_CONFIG_NAME, parse_folder_config, read_folder_config
from gcvit_flax.weights.params_checkpoint import restore_params
from gcvit_flax.weights.pretrained import find_model_folder
from gcvit_flax.weights.save_folder import save_model as save_model  # Here are both ways, for those who use folders.

logger = logging.getLogger("gcvit_flax")


def load_model(
    path: epath.PathLike,
    *,
    dtype: Any = jnp.float32,
    image_size: int | Sequence[int] | None = None,
    num_classes: int | None = None,
    in_channels: int | None = None,
    reference: str | None = None,
    remat: bool = False,
    pad_to_windows: bool | None = None,
    seed: int = 0,
) -> tuple[GCViT, dict[str, Any]]:
    """The model in the folder `path` and its variables (float32, on the default device), adapted as requested.

    `path` may also be the name of published weights (`find_model_folder`). Each change is logged. Another `image_size`
    (pixels, an int or (height, width)) resamples the relative position bias tables to the windows that `resolve_config`
    chooses; another `num_classes` gives a new head, drawn from `seed`; `reference` sets both of its settings; another
    `in_channels` sums or repeats the stem's kernel.

    Raises:
      UserError: `path` is not a model folder or is damaged, or a change does not fit its weights.
    """
    return load_with_description(
        path,
        dtype=dtype,
        image_size=image_size,
        num_classes=num_classes,
        in_channels=in_channels,
        reference=reference,
        remat=remat,
        pad_to_windows=pad_to_windows,
        seed=seed,
    )[:2]


def load_with_description(
    path: epath.PathLike, *, dtype: Any = jnp.float32, remat: bool = False, seed: int = 0, **changes: Any
) -> tuple[GCViT, dict[str, Any], dict[str, Any]]:
    """What `load_model` returns, with the same arguments, and the content of the config.json that was read with it.

    All three are of one model, also where another replaces it meanwhile.
    """
    path = find_model_folder(path)
    adapted_model(path, dtype=dtype, remat=remat, **changes)  # Refuses what does not fit before parameters are read.
    folder = read_folder(path)
    model = _adapted(folder.config, folder.preprocessing, dtype=dtype, remat=remat, **changes)
    flat = _adapted_params(path, folder, model.config, seed)
    # One at a time, so that not all parameters are in memory twice; jnp.asarray would take ten times as long.
    variables = {"params": unflatten({name: jax.device_put(flat.pop(name)) for name in list(flat)})}
    return model, variables, folder.folder_config


def adapted_model(path: epath.PathLike, *, dtype: Any, remat: bool, **changes: Any) -> GCViT:
    """The model in the folder or of the name `path` with the changes of `load_model`; its parameters are not read.

    Raises:
      UserError: `path` is not a model folder, or a change does not fit its network.
    """
    folder = absolute(find_model_folder(path))
    config, preprocessing = parse_folder_config(read_folder_config(folder), folder / FOLDER_CONFIG_NAME)
    return _adapted(config, preprocessing, dtype=dtype, remat=remat, **changes)


def adapted_params(path: epath.PathLike, config: GCViTConfig, seed: int) -> dict[str, np.ndarray]:
    """The flat parameters in the folder or of the name `path`, as NumPy arrays, adapted to `config`, which is logged.

    Raises:
      UserError: `path` is not a model folder or is damaged, or its weights cannot be adapted.
    """
    return _adapted_params(path, read_folder(find_model_folder(path)), config, seed)


class ModelFolder(NamedTuple):
    """The content of a model folder: its network, its flat parameters as NumPy arrays, and all of its config.json."""

    config: GCViTConfig
    preprocessing: Preprocessing
    flat: dict[str, np.ndarray]
    folder_config: dict[str, Any]


def read_folder(path: epath.PathLike) -> ModelFolder:
    """The content of the folder `path`, all of one model, also where another replaces it meanwhile.

    Raises:
      UserError: `path` is not a model folder or is damaged.
    """
    folder = absolute(path)
    folder_config = read_folder_config(folder)
    while True:
        config, preprocessing = parse_folder_config(folder_config, folder / FOLDER_CONFIG_NAME)
        try:
            flat = restore_params(folder / folder_config["checkpoint"], config)
            return ModelFolder(config, preprocessing, flat, folder_config)
        except UserError:
            before, folder_config = folder_config, read_folder_config(folder)
            if folder_config["checkpoint"] == before["checkpoint"]:
                raise
            # The model was saved again, by a training run for example, which removed the earlier checkpoint.


def _adapted(
    config: GCViTConfig,
    preprocessing: Preprocessing,
    *,
    dtype: Any,
    remat: bool,
    reference: str | None = None,
    image_size: int | Sequence[int] | None = None,
    **changes: Any,
) -> GCViT:
    changes = {name: value for name, value in {**changes, "image_size": image_size}.items() if value is not None}
    config = resolve_config(config, reference=reference, **changes)
    if image_size is not None:
        preprocessing = dataclasses.replace(preprocessing, image_size=as_pair("image_size", image_size))
    preprocessing = for_channels(preprocessing, config.in_channels)
    return GCViT(config, preprocessing, dtype=dtype, remat=remat)


def _adapted_params(path: epath.PathLike, folder: ModelFolder, config: GCViTConfig, seed: int) -> dict[str, np.ndarray]:
    flat, notes = adapt(folder.flat, folder.config, config, seed=seed)
    for note in notes:
        logger.info("%s: %s", path, note)
    return flat
