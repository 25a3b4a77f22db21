"""What a network is trained on."""

import dataclasses
from typing import Literal

from gcvit_flax.training.options.bounds import FRACTION, MAGNITUDE, NOT_NEGATIVE, POSITIVE, PROBABILITY, option


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """The images, and how they are read."""

    # digits, folder:PATH, tfds:NAME or hf:NAME_OR_PATH, whose parts may be named: tfds:NAME[train[:10%]] or
    # folder:PATH[TRAIN,VALIDATION].
    data: str | None = option(None, free_on_resume=True)
    # Train on this share of each class.
    train_fraction: float | None = option(None, FRACTION)
    # Train on this many images of each class.
    shots: int | None = option(None, POSITIVE)
    # Decides which images --train-fraction and --shots take; --seed does not.
    subset_seed: int = option(0, NOT_NEGATIVE)
    # Share of the data to hold out if it has no validation part; the same images for every seed.
    val_fraction: float = 0.1
    # Do not stop at images that cannot be read: training replaces them, evaluation leaves them out.
    skip_corrupt: bool = option(False, free_on_resume=True)
    # Worker processes that decode images; 0 uses threads.
    workers: int = option(0, NOT_NEGATIVE, free_on_resume=True)


@dataclasses.dataclass(frozen=True)
class AugmentationOptions:
    """What training does to the images, and with their targets."""

    # Resize whole images to the size, in training and evaluation alike, instead of cropping.
    squash: bool = False
    # Smallest and largest share of an image's area that a random crop takes.
    crop_area: tuple[float, float] = (0.35, 1.0)
    # How random crops are resized; random draws one of the two for each.
    crop_interpolation: Literal["bicubic", "bilinear", "random"] = "bicubic"
    # How often each image comes in succession, augmented anew; an epoch is as many steps as without.
    repeated_augmentation: int = option(1, POSITIVE)
    # Mirror half of the images left to right.
    flip: bool = True
    # Strength of the random brightness, contrast and saturation changes, 0 for none; RandAugment replaces it.
    color_jitter: float = option(0.3, NOT_NEGATIVE)
    # Magnitude of RandAugment, 0 to 10, 0 for none.
    rand_augment: float = option(0.0, MAGNITUDE)
    # Probability that a random rectangle of an image is replaced by noise (random erasing).
    random_erasing: float = option(0.0, PROBABILITY)
    # Mixup's beta distribution parameter, 0 for none; with CutMix, each is used with probability one half.
    mixup: float = option(0.0, NOT_NEGATIVE)
    # CutMix's beta distribution parameter, 0 for none.
    cutmix: float = option(0.0, NOT_NEGATIVE)
    # Epochs after which Mixup and CutMix are switched off. Default: never.
    mix_off_epoch: float | None = option(None, POSITIVE)
