"""Model folders: config.json beside an Orbax checkpoint of the parameters, which need nothing else to be loaded."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from gcvit_flax.config import GCViTConfig, Preprocessing
from gcvit_flax.errors import UserError
from gcvit_flax.fields import as_pair
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.storage import absolute
from gcvit_flax.variants import for_channels, resolve_config
from gcvit_flax.weights.adapt import adapt
from gcvit_flax.weights.folder_config import FOLDER_CONFIG_NAME, parse_folder_config, read_folder_config
from gcvit_flax.weights.params_checkpoint import restore_params
from gcvit_flax.weights.pretrained import find_model_folder
from gcvit_flax.weights.save_folder import save_model as save_model  # Here are both ways, for those who use folders.
from gcvit_flax.weights.tree import unflatten

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
    model = adapted_model(
        path,
        dtype=dtype,
        image_size=image_size,
        num_classes=num_classes,
        in_channels=in_channels,
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
    """The model in the folder or of the name `path` with the changes of `load_model`; its parameters are not read.

    Raises:
      UserError: `path` is not a model folder, or a change does not fit its network.
    """
    folder = absolute(find_model_folder(path))
    config, preprocessing = parse_folder_config(read_folder_config(folder), folder / FOLDER_CONFIG_NAME)
    changes = {name: value for name, value in {**changes, "image_size": image_size}.items() if value is not None}
    config = resolve_config(config, reference=reference, **changes)
    if image_size is not None:
        preprocessing = dataclasses.replace(preprocessing, image_size=as_pair("image_size", image_size))
    preprocessing = for_channels(preprocessing, config.in_channels)
    return GCViT(config, preprocessing, dtype=dtype, remat=remat)


def adapted_params(path: epath.PathLike, config: GCViTConfig, seed: int) -> dict[str, np.ndarray]:
    """The flat parameters in the folder or of the name `path`, as NumPy arrays, adapted to `config`, which is logged.

    Raises:
      UserError: `path` is not a model folder or is damaged, or its weights cannot be adapted.
    """
    saved_config, _, flat = read_folder(find_model_folder(path))
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
