"""From images to network input: the evaluation crop, then (x / 255 - mean) / std."""

import os
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from PIL import Image

from gcvit_flax.config import Preprocessing
from gcvit_flax.data.crops import read_crop
from gcvit_flax.data.decode import ImageSource
from gcvit_flax.errors import UserError

if TYPE_CHECKING:  # Worker processes that decode need no JAX.
    import jax

    _Image = ImageSource | bytearray | memoryview | IO[bytes] | jax.Array

_Array = TypeVar("_Array", np.ndarray, "jax.Array")


class _HasPreprocessing(Protocol):
    @property
    def preprocessing(self) -> Preprocessing: ...


def normalize(images: _Array, preprocessing: Preprocessing) -> _Array:
    """Images (..., channels) on the scale of 8 bits to float32, (x / 255 - mean) / std.

    Raises:
      UserError: (a ValueError) another number of channels than the network's.
    """
    if images.shape[-1] != preprocessing.channels:
        raise UserError(
            f"the images have {images.shape[-1]} channels and the network takes {preprocessing.channels}: give images "
            "of as many, or load the model with in_channels"
        )
    mean, std = np.asarray(preprocessing.mean, np.float32), np.asarray(preprocessing.std, np.float32)
    return (images.astype(np.float32) / np.float32(255) - mean) / std


def preprocess(images: "_Image | Iterable[_Image]", model: _HasPreprocessing) -> np.ndarray:
    """Images as `model` was trained to see them, float32 (B, H, W, 3), ready for `model.apply`.

    `images` is one or several of: paths, contents of files, binary files, Pillow images, and NumPy or JAX arrays, uint8
    (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of values 0..255; or a batch of them, (B, H, W, 3). Files are read from
    their beginning and left open. Size, crop, kernel, mean and std are those of `model.preprocessing`; for networks of
    other channels arrays have any type, as `read_picture` says, and the result is (B, H, W, channels).

    Raises:
      UserError: (a ValueError) an image that cannot be read, or of other channels, or what is no image.
    """
    if isinstance(images, Iterable) and not _is_image(images):
        sources = [_as_source(image) for image in images]
    else:
        sources = [_as_source(images)]
    if not sources:
        raise UserError("preprocess needs at least one image, got an empty sequence")
    return normalize(np.stack([read_crop(source, model.preprocessing) for source in sources]), model.preprocessing)


def _is_image(images: Any) -> bool:
    """Whether it is a single image, though it may be iterated over: an array of up to three axes, say."""
    if _is_array(images):
        return images.ndim < 4
    return isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike, Image.Image)) or hasattr(images, "read")


def _is_array(image: Any) -> bool:
    return hasattr(image, "__array__") and hasattr(image, "ndim")


def _as_source(image: Any) -> ImageSource:
    """One image of any kind as one of those that are read everywhere.

    Raises:
      UserError: (a ValueError) what is no image, or a file in text mode.
    """
    if isinstance(image, (bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, (str, bytes, os.PathLike, Image.Image)):
        return image
    if _is_array(image):
        return np.asarray(image)
    if not hasattr(image, "read"):
        raise UserError(
            f"an image is a path, bytes, a binary file, a Pillow image or an array, got {type(image).__name__}: give "
            "one of these, or a sequence of them"
        )
    if hasattr(image, "seekable") and image.seekable():
        image.seek(0)
    content = image.read()
    if not isinstance(content, bytes):
        raise UserError(f'the file {getattr(image, "name", image)} is open in text mode: open it with mode "rb"')
    return content
