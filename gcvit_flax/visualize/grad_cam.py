"""Where in an image a class is seen: Grad-CAM (Selvaraju et al., 2017)."""

import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from gcvit_flax.data.crops import crop_box, evaluation_crop, whole_image
from gcvit_flax.data.decode import decode
from gcvit_flax.data.preprocess import normalize
from gcvit_flax.errors import UserError
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.visualize.overlay import overlay
from gcvit_flax.visualize.png import write_png

_BEST = -1  # Stands for the class of the highest logit, so that one program serves both.


def grad_cam(model: GCViT, variables: dict, images: jax.Array, classes: Sequence[int] | None = None) -> np.ndarray:
    """What speaks for each image's class in `classes` (B,), by default its best, and where: float32 (B, H/32, W/32).

    `images` (B, H, W, 3) are normalised, as `preprocess` gives them. The last level's channels are weighted with the
    mean gradient of the class's logit and summed; what speaks against the class is 0.

    Raises:
      UserError: (a ValueError) a model without a head, or classes that it does not have.
    """
    count = model.config.num_classes
    if not count:
        raise UserError("Grad-CAM needs the logits of a class and this model has no head (num_classes is 0): load one")
    if classes is None:
        return np.asarray(_grad_cam(model, variables, images, np.full(len(images), _BEST)))
    classes = np.asarray(classes)
    if classes.shape != (len(images),) or not np.issubdtype(classes.dtype, np.integer):
        raise UserError(f"classes must be {len(images)} ints, one an image, got {classes.dtype} {classes.shape}")
    if classes.min() < 0 or classes.max() >= count:
        raise UserError(f"classes must be from 0 to {count - 1}, the model's, got {classes.tolist()}")
    return np.asarray(_grad_cam(model, variables, images, classes))


@functools.partial(jax.jit, static_argnums=0)
def _grad_cam(model: GCViT, variables: dict, images: jax.Array, classes: jax.Array) -> jax.Array:
    last = model.apply(variables, images, method="features")[-1].astype(jnp.float32)  # (B, h, w, C)

    def score(last):
        logits = model.apply(variables, last, method="classify")
        chosen = jnp.where(classes == _BEST, logits.argmax(-1), classes)
        return jnp.take_along_axis(logits, chosen[:, None], axis=-1).sum()  # Each logit depends on its own map alone.

    weights = jax.grad(score)(last).mean((1, 2), keepdims=True)
    return jax.nn.relu((weights * last).sum(-1))


def draw_heat_map(model: GCViT, variables: dict, image: str | Path, out: str | Path, whole: bool = False) -> None:
    """Lays the Grad-CAM of an image's best class over the upright image, into the PNG `out` of the image's size.

    `whole` shows the network all of the image (`whole_image`), where the model has `pad_to_windows`.

    Raises:
      UserError: (a ValueError) an image that cannot be read, a model without a head, or a picture that cannot be
        written.
    """
    photo = decode(image)
    preprocessing = whole_image(photo, model.preprocessing) if whole else model.preprocessing
    pixels = normalize(evaluation_crop(photo, preprocessing)[None], preprocessing)
    write_png(out, overlay(photo, grad_cam(model, variables, pixels)[0], crop_box(photo, preprocessing)))
