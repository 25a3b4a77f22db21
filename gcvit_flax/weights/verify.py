"""The logits of a converted model for an image or for stored inputs, to compare with another program's."""

import io
import os
import zipfile
from pathlib import Path

import jax
import numpy as np

from gcvit_flax.errors import UserError, summarize_error
from gcvit_flax.weights.classes import best_classes
from gcvit_flax.weights.folder_config import class_names
from gcvit_flax.weights.model_folder import load_with_description

_SHOWN = 10  # Numbers printed per image.
_TOP = 5


def verify(folder: str | os.PathLike[str], inputs: str | os.PathLike[str]) -> str:
    """The first logits and the five best classes of the model in `folder` for `inputs`, one line each.

    A model without a head has features instead, and no classes.

    `inputs` is an image file, or an .npz with float32, normalized "images" (B, H, W, 3).

    Raises:
      UserError: `inputs` is neither, or its images have a shape that the model does not accept.
    """
    model, variables, folder_config = load_with_description(folder)
    if Path(inputs).suffix == ".npz":
        images = stored_images(Path(inputs))
    else:
        from gcvit_flax.data.preprocess import preprocess  # Slow to import, and most conversions need no images.

        images = preprocess([inputs], model)
    # By default TPUs multiply float32 in bfloat16, and GPUs in TF32.
    with jax.default_matmul_precision("highest"):
        outputs = np.asarray(jax.jit(model.apply)(variables, images))
    names = class_names(folder_config)
    what = "logits" if names else "features"
    lines = []
    for image, row in enumerate(outputs):
        more = " ..." if len(row) > _SHOWN else ""
        lines.append(f"image {image}  {what} " + " ".join(f"{value:.6g}" for value in row[:_SHOWN]) + more)
        for index, probability in best_classes(row, _TOP if names else 0):
            lines.append(f"  {probability:7.2%}  {row[index]:10.6f}  {names[index]}")
    return "\n".join(lines)


def stored_images(path: Path) -> np.ndarray:
    """The float32 "images" in an .npz.

    Raises:
      UserError: it has none, or is damaged.
    """
    try:
        # Whole, or its checksum is not compared: np.load of the .npz stops where the array's header says that it ends.
        with zipfile.ZipFile(path) as archive:
            content = archive.read("images.npy")
        images = np.asarray(np.load(io.BytesIO(content)), np.float32)
        problem = None if len(images) else "it has none"
    except Exception as error:  # A damaged file can make NumPy raise nearly anything.
        problem = summarize_error(error)
    if problem:
        raise UserError(f"{path} holds no images ({problem}): expected an .npz with an array called images")
    return images
