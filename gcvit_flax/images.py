"""One decoder for training, evaluation and prediction, and what turns a photo into network input."""

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from gcvit_flax.config import Preprocessing, Size
from gcvit_flax.crops import evaluation_crop
from gcvit_flax.errors import UserError


class UnreadableImage(UserError):
    """An image that is missing or damaged, which a run may pass over where it is told to."""


def decode(source: Any, name: str = "") -> Image.Image:
    """An upright RGB image from a path, encoded bytes, a Pillow image or a uint8 array (H, W) or (H, W, 1, 3 or 4).

    EXIF orientation is applied, alpha dropped, greyscale and CMYK converted, 16-bit greyscale scaled to 8 bits; of
    an animation the first frame is taken. `name` is what an error calls bytes and arrays.

    Raises:
      UnreadableImage: (a UserError) what is missing or not an image that Pillow can read.
      UserError: (a ValueError) an array of another type or shape.
    """
    with _opened(source, name) as image:
        return _to_rgb(image)


@contextlib.contextmanager
def _opened(source: Any, name: str) -> Iterator[Image.Image]:
    """A Pillow image, of which a file's pixels are not read yet; what goes wrong inside is blamed on the file."""
    if isinstance(source, Image.Image):
        yield source
        return
    if isinstance(source, np.ndarray):
        yield _from_array(source, name or "array")
        return
    name = name or ("image" if isinstance(source, bytes) else str(source))
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise UnreadableImage(f"{name}: there is no such image file, check the path")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            yield image
    except Image.DecompressionBombError as error:
        limit = 2 * Image.MAX_IMAGE_PIXELS
        raise UnreadableImage(
            f"{name}: more than the {limit:,} pixels that Pillow reads; shrink or remove it"
        ) from error
    except UnidentifiedImageError as error:  # Whose words only repeat the path.
        raise UnreadableImage(f"{name}: not an image that Pillow can read; replace or remove it") from error
    except Exception as error:  # Damaged files make Pillow raise nearly everything, struct.error and RuntimeError too.
        raise UnreadableImage(f"{name}: not an image that Pillow can read ({error}); replace or remove it") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """An upright RGB image, without a copy where it is one already: a photo of 100 megapixels takes 400 MB."""
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit greyscale; convert("RGB") would clip it at 255.
        image = Image.fromarray((np.asarray(image) // 257).clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:  # Pillow warns where it goes to RGB at once.
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in array.shape:
        raise UserError(
            f"{name}: expected a uint8 array (H, W) or (H, W, 1, 3 or 4) of values 0..255, "
            f"got {array.dtype} {array.shape}"
        )
    return Image.fromarray(array[..., 0] if array.ndim == 3 and channels == 1 else array).convert("RGB")


def random_resized_crop(
    source: Any, size: Size, rng: np.random.Generator, area: tuple[float, float], name: str = ""
) -> np.ndarray:
    """A random crop resized to `size`, uint8 (H, W, 3): a share in `area` of the image, `source` as in `decode`.

    A JPEG much larger than `size` needs is decoded at a half, quarter or eighth, and at no less than twice `size`:
    several times faster, and the antialiased resize that follows gives the same pixels within a few grey levels.
    """
    with _opened(source, name) as image:
        reducible = isinstance(image, JpegImageFile)
        if not reducible:
            image = _to_rgb(image)
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1) if reducible else 1
        full_size = image.size[::-1] if orientation in (5, 6, 7, 8) else image.size
        left, top, right, bottom = _random_box(full_size, rng, area)
        excess = min((right - left) / size[1], (bottom - top) / size[0])
        factor = _reduce(image, excess / 2) if reducible else 1
        image = _to_rgb(image)
    # A side that the factor does not divide is rounded up, at its end, which a mirroring orientation makes the start.
    x = (image.width - full_size[0] / factor) * (orientation in (2, 3, 6, 7))
    y = (image.height - full_size[1] / factor) * (orientation in (3, 4, 7, 8))
    box = (left / factor + x, top / factor + y, right / factor + x, bottom / factor + y)
    return np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC, box=box))


def _reduce(image: JpegImageFile, at_most: float) -> int:
    """Makes `image` decode at 1 / factor of its size and gives the factor, the largest one up to `at_most`."""
    factor = max(factor for factor in (1, 2, 4, 8) if factor == 1 or factor <= at_most)
    drafted = image.draft(None, (image.width // factor, image.height // factor))
    return factor if drafted else 1


def _random_box(
    size: Size, rng: np.random.Generator, area: tuple[float, float], aspect: tuple[float, float] = (3 / 4, 4 / 3)
) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a share in `area` of (width, height) `size`, its width/height in `aspect`.

    The aspect ratio is drawn log-uniformly; where ten draws do not fit the image, the largest middle part that does
    is taken (Szegedy et al., 2015, the usual ImageNet crop).
    """
    full_width, full_height = size
    for _ in range(10):
        pixels = full_width * full_height * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        width, height = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < width <= full_width and 0 < height <= full_height:
            left = rng.integers(full_width - width + 1)
            top = rng.integers(full_height - height + 1)
            break
    else:
        ratio = min(max(full_width / full_height, aspect[0]), aspect[1])
        width = min(full_width, max(1, round(full_height * ratio)))
        height = min(full_height, max(1, round(full_width / ratio)))
        left, top = (full_width - width) // 2, (full_height - height) // 2
    return left, top, left + width, top + height


def normalize(images, preprocessing: Preprocessing):
    """uint8 images (..., 3) to float32, (x / 255 - mean) / std; on NumPy and JAX arrays alike."""
    mean, std = np.float32(preprocessing.mean), np.float32(preprocessing.std)
    return (images.astype(np.float32) / np.float32(255) - mean) / std


def preprocess(images: Any, model) -> np.ndarray:
    """Images as `model` was trained to see them, float32 (B, H, W, 3), ready for `model.apply`.

    `images` is one or a sequence of paths, encoded bytes, Pillow images or uint8 arrays (H, W, 3), or a batch
    (B, H, W, 3); size, crop, kernel, mean and std are `model.preprocessing`.

    Raises:
      UserError: (a ValueError) an image that cannot be read.
    """
    preprocessing: Preprocessing = model.preprocessing
    single = isinstance(images, (str, bytes, Path, Image.Image)) or (isinstance(images, np.ndarray) and images.ndim < 4)
    items: Sequence = [images] if single else list(images)
    if not items:
        raise UserError("preprocess needs at least one image, got an empty sequence")
    return normalize(np.stack([evaluation_crop(decode(item), preprocessing) for item in items]), preprocessing)
