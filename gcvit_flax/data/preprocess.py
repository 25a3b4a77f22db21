"""From images to network input: the evaluation crop, then (x / 255 - mean) / std."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from PIL import Image

from gcvit_flax.config import Preprocessing
from gcvit_flax.data.bands import read_picture
from gcvit_flax.data.crops import evaluation_crop
from gcvit_flax.data.decode import ImageSource
from gcvit_flax.errors import UserError

if TYPE_CHECKING:  # Worker processes that decode need no JAX.
    import jax

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


def preprocess(images: ImageSource | Sequence[ImageSource], model: _HasPreprocessing) -> np.ndarray:
    """Images as `model` was trained to see them, float32 (B, H, W, 3), ready for `model.apply`.

    `images` is one or a sequence of paths, encoded bytes, Pillow images or uint8 arrays (H, W, 3), or a batch
    (B, H, W, 3). Size, crop, kernel, mean and std are those of `model.preprocessing`; for networks of other channels
    arrays have any type, as `read_picture` says, and the result is (B, H, W, channels).

    Raises:
      UserError: (a ValueError) an image that cannot be read, or of other channels.
    """
    preprocessing = model.preprocessing
    if isinstance(images, (str, bytes, os.PathLike, Image.Image)) or (
        isinstance(images, np.ndarray) and images.ndim < 4
    ):
        images = [images]
    pixels = [evaluation_crop(read_picture(image, channels=preprocessing.channels), preprocessing) for image in images]
    if not pixels:
        raise UserError("preprocess needs at least one image, got an empty sequence")
    return normalize(np.stack(pixels), preprocessing)
