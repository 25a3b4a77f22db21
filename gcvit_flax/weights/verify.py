"""The logits of a converted model for an image or for stored inputs, to compare with another program's."""

import os
from pathlib import Path

import jax
import numpy as np

from gcvit_flax.errors import UserError
from gcvit_flax.weights.classes import best_classes
from gcvit_flax.weights.folder_config import class_names, read_folder_config
from gcvit_flax.weights.model_folder import load_model

_SHOWN = 10  # Logits printed per image.
_TOP = 5


def verify(folder: str | os.PathLike[str], inputs: str | os.PathLike[str]) -> str:
    """The first logits and the five best classes of the model in `folder` for `inputs`, one line each.

    `inputs` is an image file, or an .npz with float32, normalized "images" (B, H, W, 3).

    Raises:
      UserError: `inputs` is neither, or its images have a shape that the model does not accept.
    """
    model, variables = load_model(folder)
    if Path(inputs).suffix == ".npz":
        images = _stored_images(Path(inputs))
    else:
        from gcvit_flax.data.preprocess import preprocess  # Slow to import, and most conversions need no images.

        images = preprocess([inputs], model)
    # By default TPUs multiply float32 in bfloat16, and GPUs in TF32.
    with jax.default_matmul_precision("highest"):
        logits = np.asarray(jax.jit(model.apply)(variables, images))
    names = class_names(read_folder_config(folder))
    lines = []
    for image, row in enumerate(logits):
        more = " ..." if len(row) > _SHOWN else ""
        lines.append(f"image {image}  logits " + " ".join(f"{value:.6g}" for value in row[:_SHOWN]) + more)
        for index, probability in best_classes(row, _TOP):
            lines.append(f"  {probability:7.2%}  {row[index]:10.6f}  {names[index]}")
    return "\n".join(lines)


def _stored_images(path: Path) -> np.ndarray:
    try:
        with np.load(path) as arrays:
            return np.asarray(arrays["images"], np.float32)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} holds no images ({error}): expected an .npz with an array called images") from None
