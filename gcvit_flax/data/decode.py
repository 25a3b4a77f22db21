"""The decoder of training, evaluation and prediction: files, bytes and arrays to upright RGB images."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from gcvit_flax.errors import UserError

# A file's path (.npy files too), encoded bytes, a Pillow image, or a uint8 array (H, W) or (H, W, C), C being 1, 3 or
# 4; for networks of other channels see `bands`.
ImageSource = str | os.PathLike[str] | bytes | Image.Image | np.ndarray


class UnreadableImage(UserError):
    """An image that is missing or damaged; --skip-corrupt replaces it in training and leaves it out of evaluation."""


def decode(source: ImageSource, name: str = "") -> Image.Image:
    """An upright RGB image.

    EXIF orientation is applied, alpha dropped, grayscale and CMYK converted, 16-bit grayscale scaled to 8 bits, and the
    first frame of an animation taken. `name` stands for bytes and arrays in error messages.

    Raises:
      UnreadableImage: (a UserError) a file that is missing, or not an image that Pillow can read.
      UserError: (a ValueError) an array of another type or shape.
    """
    with open_image(source, name) as image:
        return to_rgb(image)


@contextlib.contextmanager
def open_image(source: ImageSource, name: str) -> Iterator[Image.Image]:
    """A Pillow image whose pixels need not be loaded yet; any error inside the block is reported as the file's."""
    if isinstance(source, Image.Image):
        yield source
        return
    if isinstance(source, np.ndarray):
        yield _from_array(source, name or "array")
        return
    if isinstance(source, str | os.PathLike) and Path(source).suffix.lower() == ".npy":
        yield _from_array(read_npy(source), name or str(source))
        return
    name = name or ("image" if isinstance(source, bytes) else str(source))
    try:
        if not isinstance(source, bytes) and not Path(source).is_file():
            raise FileNotFoundError
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            yield image
    except (FileNotFoundError, NotADirectoryError) as error:  # Also of a file that was removed after `is_file`.
        raise UnreadableImage(f"{name}: there is no such image file, check the path") from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # Never None here: then Pillow has no limit.
        raise UnreadableImage(
            f"{name}: more than the {limit:,} pixels that Pillow reads; shrink or remove it"
        ) from error
    except UnidentifiedImageError as error:  # Its message only repeats the path.
        raise UnreadableImage(f"{name}: not an image that Pillow can read; replace or remove it") from error
    except Exception as error:  # Damaged files make Pillow raise nearly everything, struct.error and RuntimeError too.
        raise UnreadableImage(f"{name}: not an image that Pillow can read ({error}); replace or remove it") from error


def read_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """The array in an .npy file, which cannot run code."""
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UnreadableImage(
            f"{path}: not an .npy file that NumPy can read ({error}); replace or remove it"
        ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """An upright RGB image, not copied if it is one already: a photo of 100 megapixels takes 400 MB."""
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grayscale, which convert("RGB") would clip at 255.
        image = Image.fromarray((np.asarray(image) // 257).clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:  # Pillow warns about a direct conversion to RGB.
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
