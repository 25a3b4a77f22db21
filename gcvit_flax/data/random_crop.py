"""The random crop of training: JPEGs are decoded no larger than they need to be."""

import math
import threading
from typing import Literal

import numpy as np
import simplejpeg
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from gcvit_flax.config import Size
from gcvit_flax.data.bands import RGB, read_picture
from gcvit_flax.data.decode import ImageSource, open_image, orientation, reported_as, source_name, to_rgb
from gcvit_flax.data.resize import resize_crop

Interpolation = Literal["bicubic", "bilinear", "random"]
_LOG_ASPECTS = (math.log(3 / 4), math.log(4 / 3))
_thread = threading.local()  # Its `buffer` holds each JPEG in turn: fresh memory would cost a fifth of the time.


def random_resized_crop(
    source: ImageSource,
    size: Size,
    rng: np.random.Generator,
    area: tuple[float, float],
    name: str = "",
    channels: int = RGB,
    interpolation: Interpolation = "bicubic",
) -> np.ndarray:
    """A random crop of a share in `area` of the image, resized to (height, width) `size`: (H, W, channels).

    A JPEG whose crop is much larger than `size` is decoded at a half, a quarter or an eighth of its size, and never
    smaller than twice `size`: that is several times faster, and the antialiased resize that follows gives the same
    pixels within a few gray levels. With the `interpolation` random it is one of the two others. The other arguments
    and the errors are those of `read_picture`.
    """
    name = source_name(source, name)
    with reported_as(name):
        if channels == RGB:
            return _crop_rgb(source, size, rng, area, name, interpolation)
        picture = read_picture(source, name, channels)
        random_box = _random_box(picture.size, rng, area)
        kernel = Image.Resampling[_draw_kernel(rng, interpolation).upper()]
        return np.asarray(picture.resize(size[::-1], kernel, random_box))


def _crop_rgb(
    source: ImageSource,
    size: Size,
    rng: np.random.Generator,
    area: tuple[float, float],
    name: str,
    interpolation: Interpolation,
) -> np.ndarray:
    with open_image(source, name) as image:
        # A file that is not decoded yet, in a color model that simplejpeg converts to RGB.
        jpeg = image if isinstance(image, JpegImageFile) and image.fp and image.mode in ("RGB", "L") else None
        if jpeg is None:
            image = to_rgb(image, name)
        stored = 1 if jpeg is None else orientation(jpeg)
        turned = stored in (5, 6, 7, 8)
        width, height = image.size[::-1] if turned else image.size
        left, top, right, bottom = _random_box((width, height), rng, area)
        excess = min((right - left) / size[1], (bottom - top) / size[0])
        pixels, factor = (np.asarray(image), 1) if jpeg is None else _decode_jpeg(jpeg, excess / 2)

    # What is stored mirrored or turned is cropped there, and the crop made upright.
    if mirrored := stored in (2, 3, 6, 7):
        left, right = width - right, width - left
    if upside_down := stored in (3, 4, 7, 8):
        top, bottom = height - bottom, height - top
    if turned:
        left, top, right, bottom, size = top, left, bottom, right, size[::-1]
    box = left / factor, top / factor, right / factor, bottom / factor
    crop = resize_crop(pixels, box, size, _draw_kernel(rng, interpolation))
    crop = crop.swapaxes(0, 1) if turned else crop
    return crop[:: -1 if upside_down else 1, :: -1 if mirrored else 1]


def _draw_kernel(rng: np.random.Generator, interpolation: Interpolation) -> Literal["bicubic", "bilinear"]:
    if interpolation != "random":
        return interpolation
    return "bilinear" if rng.integers(2) else "bicubic"


def _decode_jpeg(image: JpegImageFile, at_most: float) -> tuple[np.ndarray, int]:
    """Pixels (h, w, 3) as they are stored, at 1 / factor of the size; and the factor, the largest one up to `at_most`.

    They are valid until the same thread decodes the next JPEG.
    """
    factor = max(factor for factor in (1, 2, 4, 8) if factor == 1 or factor <= at_most)
    height, width = math.ceil(image.height / factor), math.ceil(image.width / factor)
    if getattr(_thread, "buffer", np.empty(0)).size < height * width * 3:
        _thread.buffer = np.empty(height * width * 3, np.uint8)
    assert image.fp  # Open until the image is decoded.
    image.fp.seek(0)
    try:
        decoded = simplejpeg.decode_jpeg(image.fp.read(), min_height=height, min_width=width, buffer=_thread.buffer)
        return decoded, factor
    except ValueError:  # Damaged: Pillow decides how badly, as it does for files of other kinds.
        return np.asarray(image.convert("RGB")), 1


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
