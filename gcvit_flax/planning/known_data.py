"""How much data the presets have, for which none is opened or downloaded."""

import dataclasses

from gcvit_flax.data.digits import open_digits
from gcvit_flax.data.spec import parse_spec
from gcvit_flax.errors import UserError
from gcvit_flax.training.train_config import TrainConfig

_IMAGENET, _FLOWERS = "tfds:imagenet2012", "tfds:tf_flowers"  # tensorflow.org/datasets/catalog has their sizes.


@dataclasses.dataclass(frozen=True)
class DataSize:
    """The number of classes, and of training images if that is known."""

    classes: int
    examples: int | None


def data_size(config: TrainConfig, examples: int | None) -> DataSize:
    """The size of the data that `config` names, but with as many training `examples` as are given.

    Raises:
      UserError: (a ValueError) neither the data nor --num-classes says how many classes there are.
    """
    data, parts = parse_spec(config.data or "")
    if data == "digits":
        digits = open_digits(config.val_fraction)
        known = DataSize(len(digits.class_names), len(digits.train))
    elif data == _IMAGENET:
        known = DataSize(1000, 1_281_167)
    elif data == _FLOWERS:
        known = DataSize(5, round(3670 * (1 - config.val_fraction)))  # It has no validation part.
    elif config.num_classes is not None:
        known = DataSize(config.num_classes, None)
    else:
        raise UserError(
            f"a plan opens no data, so it does not know how many classes {config.data or 'your data'} has: give "
            "--num-classes, and --examples for the days of training"
        )
    return dataclasses.replace(known, examples=examples or _examples(config, known, in_part=parts.train is not None))


def _examples(config: TrainConfig, known: DataSize, in_part: bool) -> int | None:
    """How many of the training images are used; None if that is not known, as of a part of them."""
    if config.shots is not None:
        return config.shots * known.classes
    if known.examples is None or in_part:
        return None
    return known.examples if config.train_fraction is None else round(config.train_fraction * known.examples)
