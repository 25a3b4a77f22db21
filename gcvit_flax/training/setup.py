"""From a TrainConfig and the data to a model and its first parameters."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from gcvit_flax.config import GCViTConfig, Preprocessing
from gcvit_flax.errors import UserError
from gcvit_flax.model.gcvit import GCViT, create_model
from gcvit_flax.model.init import init_params
from gcvit_flax.model.tree import unflatten
from gcvit_flax.training.train_config import TrainConfig
from gcvit_flax.weights.folder_config import read_folder_config
from gcvit_flax.weights.model_folder import adapted_model, adapted_params
from gcvit_flax.weights.pretrained import find_model_folder

_SHAPE_FIELDS = ("embed_dim", "depths", "num_heads", "window_size")
_RATE_FIELDS = ("dropout_rate", "drop_path_rate")


def build_model(config: TrainConfig, class_names: tuple[str, ...]) -> GCViT:
    """The model that `config` asks for, without parameters and without touching a device.

    Raises:
      UserError: (a ValueError) options that do not fit each other, the data or the model to start from.
    """
    num_classes = len(class_names) if config.num_classes is None else config.num_classes
    if num_classes < len(class_names):
        raise UserError(
            f"--num-classes {num_classes} is fewer than the data's {len(class_names)} classes: leave it out or raise it"
        )
    options: dict[str, Any] = {"reference": config.reference, "dtype": jnp.dtype(config.dtype), "remat": config.remat}
    options["num_classes"] = num_classes
    options |= _given(config, ("in_channels",))
    if config.init_from is None:
        fields = _given(config, (*_SHAPE_FIELDS, *_RATE_FIELDS, "image_size"))
        model = create_model(config.variant or "gcvit_xxtiny", **options, **fields)
    else:
        _check_same_network(config)
        model = adapted_model(config.init_from, image_size=config.image_size, **options)
        model = model.clone(config=dataclasses.replace(model.config, **_given(config, _RATE_FIELDS)))
    return model.clone(preprocessing=_preprocessing(config, model.preprocessing))


def rebuild_model(config: TrainConfig, saved: dict[str, Any], workdir: epath.PathLike) -> GCViT:
    """The model of the run in `workdir` whose config.json is `saved`, with the dtype and remat of `config`.

    Raises:
      UserError: (a ValueError) `saved` describes no network of this version.
    """
    try:
        network, preprocessing = GCViTConfig(**saved["model"]), Preprocessing(**saved["preprocessing"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the config.json of the run in {workdir} describes no network that this version of gcvit_flax has "
            f"({error}): resume with version {saved.get('gcvit_flax_version')}, which wrote it, or choose another "
            "--workdir"
        ) from None
    return GCViT(network, preprocessing, dtype=jnp.dtype(config.dtype), remat=config.remat)


def initial_params(config: TrainConfig, model: GCViT) -> dict[str, Any]:
    """The parameters a run starts from: those of `init_from` made to fit `model`, or fresh ones from the seed.

    Raises:
      UserError: (a ValueError) a folder to start from that is damaged or does not fit.
    """
    if config.init_from is None:
        return init_params(model, jax.random.key(config.seed))
    return unflatten(adapted_params(config.init_from, model.config, config.seed))


def _preprocessing(config: TrainConfig, usual: Preprocessing) -> Preprocessing:
    """`usual`, of as many channels as the network takes, with what `config` says otherwise."""
    changes: dict[str, Any] = {"crop_mode": "squash", "crop_fraction": 1.0} if config.squash else {}
    changes |= _given(config, ("mean", "std"))
    changed = dataclasses.replace(usual, **changes)
    if changed.channels != usual.channels:
        raise UserError(
            f"--mean and --std have {changed.channels} numbers, and the images {usual.channels} channels: give one for "
            "each channel"
        )
    return changed


def _given(config: TrainConfig, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(config, name) for name in names if getattr(config, name) is not None}


def _check_same_network(config: TrainConfig) -> None:
    assert config.init_from is not None
    folder_config = read_folder_config(find_model_folder(config.init_from))
    for name in _given(config, _SHAPE_FIELDS):
        raise UserError(f"--{name.replace('_', '-')} cannot change the network of --init-from: leave it out")
    if config.variant not in (None, folder_config["variant"]):
        raise UserError(
            f"--variant {config.variant} differs from the network in {config.init_from}, which is "
            f"{folder_config['variant'] or 'no published variant'}: leave --variant out or start from another folder"
        )
