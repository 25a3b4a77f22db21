"""Draws augmented training images: `python -m gcvit_flax.training.show_batch OUT.png [PRESET] [--option value ...]`.

The options are those of train.py. Each image is titled with its class, or with the shares of the two classes it mixes.
"""

import math
import sys
from collections.abc import Sequence

import jax
import numpy as np

from gcvit_flax.cli import run_cli
from gcvit_flax.config import Preprocessing
from gcvit_flax.data.bands import RGB, visible
from gcvit_flax.data.batches import training_batches
from gcvit_flax.data.datasets import open_data
from gcvit_flax.data.sources import Source
from gcvit_flax.errors import UserError
from gcvit_flax.training.augment.augment import augment
from gcvit_flax.training.augment.mixing import mix
from gcvit_flax.training.command_line import parse
from gcvit_flax.training.setup import build_model
from gcvit_flax.training.train_config import TrainConfig

_MAX_IMAGES = 32
_IMAGE_INCHES = 2.0  # The side of an image.


def main(arguments: Sequence[str] | None = None) -> int:
    """Augments a batch of the training data and draws it; without OUT.png, prints the usage."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 0 if arguments[:1] in (["--help"], ["-h"]) else 2
    path, *options = arguments
    config = parse(options)
    data = open_data(config.data_spec, config.val_fraction, subset=config.subset)
    preprocessing = build_model(config, data.class_names).preprocessing
    images, targets = _augmented_batch(config, data.train, preprocessing, len(data.class_names))
    _draw(path, images, [_title(shares, data.class_names) for shares in targets])
    return 0


def _augmented_batch(
    config: TrainConfig, source: Source, preprocessing: Preprocessing, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """The first batch, or part of it, as the network sees it: images (b, H, W, 3) in 0..1 and targets (b, classes)."""
    batches = training_batches(
        source,
        preprocessing,
        batch_size=min(config.batch_size or _MAX_IMAGES, _MAX_IMAGES),
        seed=config.seed,
        start_step=0,
        crop_area=config.crop_area,
        squash=config.squash,
        interpolation=config.crop_interpolation,
        repeats=config.repeated_augmentation,
        skip_corrupt=config.skip_corrupt,
    )
    batch = next(batches)

    @jax.jit
    def augment_and_mix(images: jax.Array, index: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        augment_key, mix_key = jax.random.split(jax.random.key(config.seed))
        images = augment(augment_key, images, index, preprocessing, config)
        return mix(mix_key, images, jax.nn.one_hot(labels, num_classes), config.mixup, config.cutmix)

    images, targets = jax.device_get(augment_and_mix(batch["image"], batch["index"], batch["label"]))
    mean, std = np.asarray(preprocessing.mean, np.float32), np.asarray(preprocessing.std, np.float32)
    images = images * std + mean
    return images.clip(0, 1) if images.shape[-1] == RGB else visible(images), targets


def _title(shares: np.ndarray, class_names: Sequence[str]) -> str:
    """The one or two classes with a share of at least half a percent, the largest first, one per line."""
    present = [i for i in np.argsort(-shares, kind="stable")[:2] if shares[i] >= 0.005]
    if len(present) == 1:
        return class_names[present[0]]
    return "\n".join(f"{class_names[i]} {shares[i]:.0%}" for i in present)


def _draw(path: str, images: np.ndarray, titles: list[str]) -> None:
    from matplotlib.figure import Figure  # Slow to import.

    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    figure = Figure((_IMAGE_INCHES * columns, 1.2 * _IMAGE_INCHES * rows), layout="constrained")
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.axis("off")
    for axes, image, title in zip(figure.axes, images, titles, strict=False):
        axes.imshow(image)
        axes.set_title(title, fontsize=8)
    try:
        figure.savefig(path, dpi=100)
    except ValueError as error:  # An unknown file name extension; Matplotlib's message lists the known ones.
        raise UserError(f"{path}: {error}") from error
    print(f"{path}: {len(images)} of the images of a step")


if __name__ == "__main__":
    run_cli(main)
