"""What a network is trained on."""

import dataclasses

from gcvit_flax.training.options.bounds import MAGNITUDE, NOT_NEGATIVE, POSITIVE, PROBABILITY, option


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """The images, and how they are read."""

    # digits, folder:PATH or tfds:NAME.
    data: str | None = option(None, free_on_resume=True)
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
