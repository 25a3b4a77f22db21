"""The random crop of training, decoded no larger than it needs to be."""

import math

import numpy as np
from PIL import ExifTags
from PIL.JpegImagePlugin import JpegImageFile

from gcvit_flax.config import Size
from gcvit_flax.data.decode import ImageSource, open_image, to_rgb
from gcvit_flax.data.resize import resize_crop

_LOG_ASPECTS = (math.log(3 / 4), math.log(4 / 3))


def random_resized_crop(
    source: ImageSource, size: Size, rng: np.random.Generator, area: tuple[float, float], name: str = ""
) -> np.ndarray:
    """A random crop of a share in `area` of the image, resized to (height, width) `size`: uint8 (H, W, 3).

    A JPEG whose crop is much larger than `size` is decoded at a half, a quarter or an eighth of its size, and never
    smaller than twice `size`: that is several times faster, and the antialiased resize that follows gives the same
    pixels within a few gray levels. `source` and `name` are as in `decode`, and so are the errors.
    """
    with open_image(source, name) as image:
        jpeg = image if isinstance(image, JpegImageFile) else None
        if jpeg is None:
            image = to_rgb(image)
        orientation = 1 if jpeg is None else jpeg.getexif().get(ExifTags.Base.Orientation, 1)
        full_size = image.size[::-1] if orientation in (5, 6, 7, 8) else image.size
        left, top, right, bottom = _random_box(full_size, rng, area)
        excess = min((right - left) / size[1], (bottom - top) / size[0])
        factor = 1 if jpeg is None else _reduce(jpeg, excess / 2)
        image = to_rgb(image)
    # A side that the factor does not divide is rounded up at its end, which a mirroring orientation makes the start.
    x = (image.width - full_size[0] / factor) * (orientation in (2, 3, 6, 7))
    y = (image.height - full_size[1] / factor) * (orientation in (3, 4, 7, 8))
    box = (left / factor + x, top / factor + y, right / factor + x, bottom / factor + y)
    return resize_crop(image, box, size)


def _reduce(image: JpegImageFile, at_most: float) -> int:
    """Makes `image` decode at 1 / factor of its size and returns the factor, the largest one up to `at_most`."""
    factor = max(factor for factor in (1, 2, 4, 8) if factor == 1 or factor <= at_most)
    drafted = image.draft(None, (image.width // factor, image.height // factor))
    return factor if drafted else 1


def _random_box(
    size: tuple[int, int], rng: np.random.Generator, area: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a box in (width, height) `size` that covers a share in `area` of it.

    Width over height is drawn log-uniformly from 3/4 to 4/3. If ten draws do not fit into the image, the box is the
    largest centered one that does (Szegedy et al., 2015, the usual ImageNet crop).
    """
    full_width, full_height = size
    for _ in range(10):
        pixels = full_width * full_height * rng.uniform(*area)
        ratio = math.exp(rng.uniform(*_LOG_ASPECTS))
        width, height = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < width <= full_width and 0 < height <= full_height:
            left = int(rng.integers(full_width - width + 1))
            top = int(rng.integers(full_height - height + 1))
            break
    else:
        ratio = min(max(full_width / full_height, 3 / 4), 4 / 3)
        width = min(full_width, max(1, round(full_height * ratio)))
        height = min(full_height, max(1, round(full_width / ratio)))
        left, top = (full_width - width) // 2, (full_height - height) // 2
    return left, top, left + width, top + height
