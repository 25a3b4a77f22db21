"""The decoder of training, evaluation and prediction: files, bytes and arrays to upright RGB images."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from gcvit_flax.errors import UserError, summarize_error

# A path, a file's content (.npy files too), a Pillow image, or a uint8 array (H, W) or (H, W, C), C being 1, 3 or 4;
# for networks of other channels see `bands`.
ImageSource = str | os.PathLike[str] | bytes | Image.Image | np.ndarray

# Tags of TIFF files, and their values that Pillow treats as any other.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANAR_CONFIGURATION, _SAMPLE_FORMAT = 258, 262, 284, 339
_WHITE_IS_ZERO, _AS_PLANES, _UNSIGNED, _SIGNED = 0, 2, 1, 2


class UnreadableImage(UserError):
    """An image that is missing, damaged or of another kind: with --skip-corrupt, others replace it in training.

    Evaluation leaves it out then.
    """


def decode(source: ImageSource, name: str = "") -> Image.Image:
    """An upright RGB image.

    EXIF orientation is applied, alpha dropped, other color models converted, gray of 16 bits scaled to 8 bits and real
    numbers from their range 0..1, and the first frame of an animation taken. `name` stands for bytes and arrays in
    error messages.

    Raises:
      UnreadableImage: (a UserError) a file that is missing, not an image that Pillow can read, or one whose numbers
        have no known scale; an array of another type or shape.
    """
    with open_image(source, name) as image:
        return to_rgb(image, source_name(source, name))


def source_name(source: ImageSource, name: str = "") -> str:
    """What error messages call an image: `name`, or else its path, or what it is."""
    if name:
        return name
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return "array" if isinstance(source, np.ndarray) else "image"


@contextlib.contextmanager
def reported_as(name: str) -> Iterator[None]:
    """Any error inside the block is reported as that of the image `name`, which others may outlive.

    Raises:
      UnreadableImage: (a UserError) in place of all errors but UserErrors.
    """
    try:
        yield
    except UserError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:  # Also of a file that was removed after `is_file`.
        raise UnreadableImage(f"{name}: there is no such image file, check the path") from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # Never None here: then Pillow has no limit.
        raise UnreadableImage(
            f"{name}: more than the {limit:,} pixels that Pillow reads; shrink or remove it"
        ) from error
    except MemoryError as error:
        raise UnreadableImage(f"{name}: does not fit into the memory of this machine; shrink or remove it") from error
    except UnidentifiedImageError as error:  # Its message only repeats the path.
        raise UnreadableImage(f"{name}: not an image that Pillow can read; replace or remove it") from error
    except Exception as error:  # Damaged files make Pillow raise nearly everything, struct.error and RuntimeError too.
        raise UnreadableImage(
            f"{name}: not an image that Pillow can read ({summarize_error(error)}); replace or remove it"
        ) from error


@contextlib.contextmanager
def open_image(source: ImageSource, name: str) -> Iterator[Image.Image]:
    """A Pillow image whose pixels need not be loaded yet; any error inside the block is reported as the file's."""
    name = source_name(source, name)
    with reported_as(name):
        if isinstance(source, Image.Image):
            yield source
        elif isinstance(source, np.ndarray):
            yield _from_array(source, name)
        elif is_npy(source):
            yield _from_array(read_npy(source, name), name)
        else:
            if not isinstance(source, bytes) and not Path(source).is_file():
                raise FileNotFoundError
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                yield image


def is_npy(source: str | os.PathLike[str] | bytes) -> bool:
    """Whether a file is an .npy file, by its name or its content."""
    if isinstance(source, bytes):
        return source.startswith(np.lib.format.MAGIC_PREFIX)
    return Path(source).suffix.lower() == ".npy"


def read_npy(source: str | os.PathLike[str] | bytes, name: str) -> np.ndarray:
    """The array in an .npy file, which cannot run code."""
    try:
        array = np.load(io.BytesIO(source) if isinstance(source, bytes) else source, allow_pickle=False)
    except Exception as error:  # Damaged headers are Python that cannot be parsed, or arrays that fill the memory.
        raise UnreadableImage(
            f"{name}: not an .npy file that NumPy can read ({summarize_error(error)}); replace or remove it"
        ) from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise UnreadableImage(f"{name}: an archive of arrays, expected a single one; save each as an .npy file")
    return array


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """An upright RGB image, not copied if it is one already: a photo of 100 megapixels takes 400 MB."""
    check_samples(image, name)
    image = upright(image)
    if image.mode.startswith(("I", "F")):  # convert("RGB") would clip them at 255.
        image = Image.fromarray(_to_8_bits(image, name))
    if image.mode == "P" and "transparency" in image.info:  # Pillow warns about a direct conversion to RGB.
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def upright(image: Image.Image) -> Image.Image:
    """The image as its EXIF data turns it; itself if it is upright already."""
    image.load()
    return ImageOps.exif_transpose(image) if orientation(image) != 1 else image


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; that of damaged EXIF data, which harms no pixels, is 1: upright."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except SyntaxError:  # Of formats other than JPEG, for which Pillow passes over it.
        return 1


def check_samples(image: Image.Image, name: str) -> None:
    """Raises UnreadableImage for a TIFF file of numbers that Pillow takes for others."""
    tags = getattr(image, "tag_v2", {})
    bits, form = max(tags.get(_BITS_PER_SAMPLE, (1,))), max(tags.get(_SAMPLE_FORMAT, (_UNSIGNED,)))
    if form == _SIGNED or (form == _UNSIGNED and bits > 16):
        found = f"{'signed ' if form == _SIGNED else ''}integers of {bits} bits"
    elif tags.get(_PLANAR_CONFIGURATION) == _AS_PLANES and bits > 8:
        found = f"samples of {bits} bits in planes"
    else:
        return
    raise UnreadableImage(
        f"{name}: {found}, expected unsigned integers of 8 or 16 bits, pixel by pixel; convert or remove it"
    )


def gray_of_16_bits(image: Image.Image, name: str) -> np.ndarray:
    """The pixels of an image whose mode begins with I, uint16 (H, W)."""
    pixels = np.asarray(image)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise UnreadableImage(
            f"{name}: integers from {pixels.min()} to {pixels.max()}, expected 0 to 65535; scale them or remove it"
        )
    pixels = pixels.astype(np.uint16)
    return 65535 - pixels if _is_negative(image) else pixels


def _is_negative(image: Image.Image) -> bool:
    """Whether an image is of a TIFF file in which 0 is white; in 8 bits, Pillow inverts it."""
    return getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def _to_8_bits(image: Image.Image, name: str) -> np.ndarray:
    """The pixels of a gray image of integers of 16 bits or of real numbers from 0 to 1, uint8 (H, W)."""
    if image.mode.startswith("I"):
        return (gray_of_16_bits(image, name) // 257).astype(np.uint8)
    pixels = np.asarray(image)
    if not (pixels.min() >= 0 and pixels.max() <= 1):  # Not those of NaN either.
        raise UnreadableImage(
            f"{name}: real numbers from {pixels.min():g} to {pixels.max():g}, expected 0 to 1; scale them or remove it"
        )
    return np.rint((1 - pixels if _is_negative(image) else pixels) * 255).astype(np.uint8)


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in array.shape:
        raise UnreadableImage(
            f"{name}: expected a uint8 array (H, W) or (H, W, 1, 3 or 4) of values 0..255, "
            f"got {array.dtype} {array.shape}"
        )
    return Image.fromarray(array[..., 0] if array.ndim == 3 and channels == 1 else array).convert("RGB")
