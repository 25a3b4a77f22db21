"""Images to network input: the evaluation crop, then (x / 255 - mean) / std."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gcvit_flax.config import Preprocessing
from gcvit_flax.data.crops import evaluation_crop
from gcvit_flax.data.decode import decode
from gcvit_flax.errors import UserError


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
