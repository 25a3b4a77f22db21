"""From a TrainConfig and the data to a model with its first parameters."""

import dataclasses
import logging

import jax
import jax.numpy as jnp

from gcvit_flax.errors import UserError
from gcvit_flax.model.gcvit import GCViT, create_model
from gcvit_flax.model.init import init_params
from gcvit_flax.training.config import TrainConfig
from gcvit_flax.weights.card import read_card
from gcvit_flax.weights.store import load_model

logger = logging.getLogger("gcvit_flax")

_SHAPE_FIELDS = ("embed_dim", "depths", "num_heads", "window_size")
_RATE_FIELDS = ("dropout_rate", "drop_path_rate")


def start_model(config: TrainConfig, class_names: tuple[str, ...]) -> tuple[GCViT, dict]:
    """The model that `config` asks for and its first parameters: those of `init_from`, or fresh ones from the seed.

    Raises:
      UserError: (a ValueError) options that do not fit each other, the data or the model to start from.
    """
    num_classes = len(class_names) if config.num_classes is None else config.num_classes
    if num_classes < len(class_names):
        raise UserError(
            f"--num-classes {num_classes} is fewer than the data's {len(class_names)} classes: leave it out or raise it"
        )
    if config.init_from is not None:
        return _load(config, num_classes)
    names = (*_SHAPE_FIELDS, *_RATE_FIELDS, "image_size")
    fields = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    model = create_model(
        config.variant or "gcvit_xxtiny",
        reference=config.reference,
        dtype=jnp.dtype(config.dtype),
        remat=config.remat,
        num_classes=num_classes,
        **fields,
    )
    return model, init_params(model, jax.random.key(config.seed))


def _load(config: TrainConfig, num_classes: int) -> tuple[GCViT, dict]:
    card = read_card(config.init_from)
    given = [name for name in _SHAPE_FIELDS if getattr(config, name) is not None]
    if given:
        raise UserError(f"--{given[0].replace('_', '-')} cannot change the network of --init-from: leave it out")
    if config.variant not in (None, card["variant"]):
        raise UserError(
            f"--variant {config.variant} differs from the network in {config.init_from}, which is "
            f"{card['variant'] or 'no published variant'}: leave --variant out or start from another folder"
        )
    model, variables = load_model(
        config.init_from,
        dtype=jnp.dtype(config.dtype),
        image_size=config.image_size,
        num_classes=num_classes,
        reference=config.reference,
        remat=config.remat,
        seed=config.seed,
    )
    rates = {name: getattr(config, name) for name in _RATE_FIELDS if getattr(config, name) is not None}
    return model.clone(config=dataclasses.replace(model.config, **rates)), variables["params"]
