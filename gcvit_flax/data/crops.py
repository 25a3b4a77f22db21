"""The deterministic crops of evaluation and prediction."""

import dataclasses
import math

import numpy as np
from PIL import Image

from gcvit_flax.config import Preprocessing
from gcvit_flax.data.bands import Picture

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_ASPECT_RATIOS = (0.5, math.sqrt(0.5), 1.0, math.sqrt(2), 2.0)


def evaluation_crop(image: Picture, preprocessing: Preprocessing) -> np.ndarray:
    """The crop that a network is evaluated on, (H, W, channels): antialiased resize, then the center."""
    height, width = preprocessing.image_size
    resized = _resized_size(image, preprocessing)
    if image.size != resized:
        image = image.resize(resized, _RESAMPLING[preprocessing.kernel])
    left, top = _crop_corner(resized, preprocessing)
    return np.asarray(image.crop((left, top, left + width, top + height)))


def crop_box(image: Picture, preprocessing: Preprocessing) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the evaluation crop, in pixels of `image`."""
    resized, (height, width) = _resized_size(image, preprocessing), preprocessing.image_size
    left, top = _crop_corner(resized, preprocessing)
    x, y = image.width / resized[0], image.height / resized[1]
    return left * x, top * y, (left + width) * x, (top + height) * y


def _resized_size(image: Picture, preprocessing: Preprocessing) -> tuple[int, int]:
    """(width, height) that the image is resized to before the crop."""
    height, width = preprocessing.image_size
    width, height = math.floor(width / preprocessing.crop_fraction), math.floor(height / preprocessing.crop_fraction)
    if preprocessing.crop_mode != "center":
        return width, height
    scale = max(width / image.width, height / image.height)
    return max(width, round(scale * image.width)), max(height, round(scale * image.height))


def _crop_corner(resized: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Left and top of the crop in an image of (width, height) `resized`."""
    height, width = preprocessing.image_size
    return round((resized[0] - width) / 2), round((resized[1] - height) / 2)


def whole_image(image: Picture, preprocessing: Preprocessing) -> Preprocessing:
    """Preprocessing that keeps the whole image: it is squashed to the nearest of five shapes of about the same area.

    The aspect ratios (width / height) are about 1/2, 0.7, 1, 1.4 and 2, and sides are multiples of 32 px, so that at
    most five programs are compiled for images of any size. At 224 and 384 px, images with an aspect ratio of 0.4 to 2.5
    are squashed by a fifth at most. For networks with `pad_to_windows`.
    """
    side = math.sqrt(math.prod(preprocessing.image_size))
    lengths = [(side / math.sqrt(aspect), side * math.sqrt(aspect)) for aspect in _ASPECT_RATIOS]
    shapes = [(_multiple_of_32(height), _multiple_of_32(width)) for height, width in lengths]
    nearest = min(shapes, key=lambda shape: abs(math.log(image.width / image.height * shape[0] / shape[1])))
    return dataclasses.replace(preprocessing, image_size=nearest, crop_fraction=1.0, crop_mode="squash")


def _multiple_of_32(length: float) -> int:
    return max(32, 32 * round(length / 32))
