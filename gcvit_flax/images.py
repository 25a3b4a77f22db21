"""One decoder for training, evaluation and prediction, and the crops that turn a photo into network input."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from gcvit_flax.config import Preprocessing, Size
from gcvit_flax.errors import UserError

_KERNELS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
# What Pillow raises for files that are not images, are cut short, or are absurdly large.
_UNREADABLE = (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def decode(source: Any, name: str = "") -> Image.Image:
    """An upright RGB image from a path, encoded bytes, a Pillow image or a uint8 array (H, W) or (H, W, 1, 3 or 4).

    EXIF orientation is applied, alpha dropped, greyscale and CMYK converted, 16-bit greyscale scaled to 8 bits; of
    an animation the first frame is taken. `name` is what an error calls bytes and arrays.

    Raises:
      UserError: (a ValueError) what is not an image that Pillow can read.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, name or "array")
    if isinstance(source, Image.Image):
        return _to_rgb(source)
    name = name or ("image" if isinstance(source, bytes) else str(source))
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise UserError(f"{name}: there is no such image file, check the path")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return _to_rgb(image)
    except _UNREADABLE as error:
        raise UserError(f"{name}: not an image that Pillow can read ({error}); replace or remove it") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit greyscale; convert("RGB") would clip it at 255.
        image = Image.fromarray((np.asarray(image, np.int64) // 257).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in array.shape:
        raise UserError(
            f"{name}: expected a uint8 array (H, W) or (H, W, 1, 3 or 4) of values 0..255, "
            f"got {array.dtype} {array.shape}"
        )
    return Image.fromarray(array[..., 0] if array.ndim == 3 and channels == 1 else array).convert("RGB")


def evaluation_crop(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """The deterministic crop a network is evaluated on, uint8 (H, W, 3): antialiased resize, then the middle."""
    height, width = preprocessing.image_size
    kernel = _KERNELS[preprocessing.kernel]
    covered = [math.floor(side / preprocessing.crop_fraction) for side in (width, height)]
    if preprocessing.crop_mode == "center":
        scale = max(covered[0] / image.width, covered[1] / image.height)
        covered = [
            max(side, round(scale * length)) for side, length in zip(covered, (image.width, image.height), strict=True)
        ]
    if image.size != tuple(covered):
        image = image.resize(covered, kernel)
    left, top = round((covered[0] - width) / 2), round((covered[1] - height) / 2)
    return np.asarray(image.crop((left, top, left + width, top + height)))


def random_resized_crop(
    image: Image.Image,
    size: Size,
    rng: np.random.Generator,
    area: tuple[float, float],
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> np.ndarray:
    """A random crop resized to `size`, uint8 (H, W, 3): a share in `area` of the image, width/height in `aspect`.

    The aspect ratio is drawn log-uniformly; where ten draws do not fit the image, the largest middle part that does
    is taken (Szegedy et al., 2015, the usual ImageNet crop).
    """
    for _ in range(10):
        pixels = image.width * image.height * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        width, height = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < width <= image.width and 0 < height <= image.height:
            left = rng.integers(image.width - width + 1)
            top = rng.integers(image.height - height + 1)
            break
    else:
        ratio = min(max(image.width / image.height, aspect[0]), aspect[1])
        width = min(image.width, max(1, round(image.height * ratio)))
        height = min(image.height, max(1, round(image.width / ratio)))
        left, top = (image.width - width) // 2, (image.height - height) // 2
    box = (left, top, left + width, top + height)
    return np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC, box=box))


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
