"""What part of an image a network sees, and at which size, where nothing is random."""

import dataclasses
import math

import numpy as np
from PIL import Image

from gcvit_flax.config import Preprocessing

_KERNELS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_ASPECTS = (0.5, math.sqrt(0.5), 1.0, math.sqrt(2), 2.0)


def evaluation_crop(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """The deterministic crop a network is evaluated on, uint8 (H, W, 3): antialiased resize, then the middle."""
    height, width = preprocessing.image_size
    covered = _covered(image, preprocessing)
    if image.size != covered:
        image = image.resize(covered, _KERNELS[preprocessing.kernel])
    left, top = _corner(covered, preprocessing)
    return np.asarray(image.crop((left, top, left + width, top + height)))


def crop_box(image: Image.Image, preprocessing: Preprocessing) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what `evaluation_crop` shows, in pixels of `image`."""
    covered, (height, width) = _covered(image, preprocessing), preprocessing.image_size
    left, top = _corner(covered, preprocessing)
    x, y = image.width / covered[0], image.height / covered[1]
    return left * x, top * y, (left + width) * x, (top + height) * y


def _covered(image: Image.Image, preprocessing: Preprocessing) -> tuple[int, int]:
    """(width, height) that the image is resized to before the crop."""
    height, width = preprocessing.image_size
    covered = tuple(math.floor(side / preprocessing.crop_fraction) for side in (width, height))
    if preprocessing.crop_mode != "center":
        return covered
    scale = max(covered[0] / image.width, covered[1] / image.height)
    return tuple(max(side, round(scale * length)) for side, length in zip(covered, image.size, strict=True))


def _corner(covered: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    height, width = preprocessing.image_size
    return round((covered[0] - width) / 2), round((covered[1] - height) / 2)


def whole_image(image: Image.Image, preprocessing: Preprocessing) -> Preprocessing:
    """Preprocessing that keeps all of an image, at the nearest of five shapes of about the same area.

    Width over height is about 1/2, 0.7, 1, 1.4 or 2 and sides are multiples of 32 px, so that images of any size
    compile at most five programs; one side is squashed by what is left, at 224 and 384 px at most a fifth where the
    image's aspect ratio is within 0.4 to 2.5. For networks with `pad_to_windows`.
    """
    side = math.sqrt(math.prod(preprocessing.image_size))
    lengths = [(side / math.sqrt(aspect), side * math.sqrt(aspect)) for aspect in _ASPECTS]
    shapes = [tuple(max(32, 32 * round(length / 32)) for length in pair) for pair in lengths]
    nearest = min(shapes, key=lambda shape: abs(math.log(image.width / image.height * shape[0] / shape[1])))
    return dataclasses.replace(preprocessing, image_size=nearest, crop_fraction=1.0, crop_mode="squash")
