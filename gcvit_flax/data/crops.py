"""The deterministic crops of evaluation and prediction."""

import dataclasses
import math

import numpy as np
from PIL import Image

from gcvit_flax.config import Preprocessing
from gcvit_flax.data.bands import Picture, read_picture
from gcvit_flax.data.decode import ImageSource, reported_as, source_name

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_ASPECT_RATIOS = (0.5, math.sqrt(0.5), 1.0, math.sqrt(2), 2.0)
_LONGEST_WHOLE = 16  # Long over short side of images that are resized as a whole.
_REDUCING_GAP = 3  # Pixels for each that is left, where an image is reduced before it is resized.


def read_crop(source: ImageSource, preprocessing: Preprocessing, name: str = "") -> np.ndarray:
    """The evaluation crop of an image (`read_picture`), (H, W, channels).

    Raises:
      UnreadableImage: (a UserError) an image that cannot be read, or for which there is no memory.
    """
    with reported_as(source_name(source, name)):
        return evaluation_crop(read_picture(source, name, preprocessing.channels), preprocessing)


def evaluation_crop(image: Picture, preprocessing: Preprocessing) -> np.ndarray:
    """The crop that a network is evaluated on, (H, W, channels): antialiased resize, then the center."""
    height, width = preprocessing.image_size
    resized, kernel = _resized_size(image, preprocessing), _RESAMPLING[preprocessing.kernel]
    if max(image.size) > _LONGEST_WHOLE * min(image.size):
        return _resize_part(image, crop_box(image, preprocessing), (width, height), kernel)
    if image.size != resized:
        image = image.resize(resized, kernel)
    left, top = _crop_corner(resized, preprocessing)
    return np.asarray(image.crop((left, top, left + width, top + height)))


def _resize_part(
    image: Picture, box: tuple[float, float, float, float], size: tuple[int, int], kernel: Image.Resampling
) -> np.ndarray:
    """The part of `image` in `box` (left, top, right, bottom) resized to (width, height) `size`: (H, W, channels).

    The same as from the whole image resized, within a few gray levels, without the memory for that: strips of 2 x
    40,000 px would take gigabytes, and so would the weights of a kernel that spans millions of pixels.
    """
    (left, right, x, *across), (top, bottom, y, *down) = (
        _reduced(box[axis], box[axis + 2], size[axis], image.size[axis]) for axis in (0, 1)
    )
    part = image.reduce((x, y), (left, top, right, bottom))
    return np.asarray(part.resize(size, kernel, (across[0], down[0], across[1], down[1])))


def _reduced(start: float, end: float, pixels: int, length: int) -> tuple[int, int, int, float, float]:
    """Along one axis of `length`: what is read of it, the factor to reduce that by, and where `start` and `end` are
    then.
    """
    scale = (end - start) / pixels
    factor, margin = max(1, int(scale / _REDUCING_GAP)), math.ceil(3 * max(scale, 1))  # The kernel reads 2 * scale.
    first, last = max(0, math.floor(start) - margin), min(length, math.ceil(end) + margin)
    return (
        first,
        last,
        factor,
        (start - first) / factor,
        min((end - first) / factor, math.ceil((last - first) / factor)),
    )


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
