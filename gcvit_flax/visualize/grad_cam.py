"""Grad-CAM (Selvaraju et al., 2017): where in an image the network sees a class."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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

_BEST = -1  # Stands for the class of the highest logit; one compiled program handles both cases.


def grad_cam(
    model: GCViT,
    variables: dict[str, Any],
    images: np.ndarray | jax.Array,
    classes: Sequence[int] | np.ndarray | None = None,
) -> np.ndarray:
    """The evidence at each position for each image's class, float32 (B, H/32, W/32).

    `images` (B, H, W, 3) are normalized, as `preprocess` returns them; `classes` (B,) are by default those of the
    highest logits. The channels of the last level's map are weighted by the mean gradient of the class's logit and
    summed; negative values are set to 0 (equations 1 and 2).

    Raises:
      UserError: (a ValueError) a model without a head, or classes that it does not have.
    """
    count = model.config.num_classes
    if not count:
        raise UserError(
            "Grad-CAM needs the logits of a class, and this model has no head (num_classes is 0): load one with a head"
        )
    if classes is None:
        return np.asarray(_grad_cam(model, variables, images, np.full(len(images), _BEST)))
    chosen = np.asarray(classes)
    if chosen.shape != (len(images),) or not np.issubdtype(chosen.dtype, np.integer):
        raise UserError(f"classes must be {len(images)} ints, one per image, got {chosen.dtype} {chosen.shape}")
    if chosen.min() < 0 or chosen.max() >= count:
        raise UserError(f"classes must be from 0 to {count - 1}, the model's, got {chosen.tolist()}")
    return np.asarray(_grad_cam(model, variables, images, chosen))


@functools.partial(jax.jit, static_argnums=0)
def _grad_cam(
    model: GCViT, variables: dict[str, Any], images: np.ndarray | jax.Array, classes: np.ndarray | jax.Array
) -> jax.Array:
    maps: Any = model.apply(variables, images, method="features")
    last = maps[-1].astype(jnp.float32)  # (B, h, w, C)

    def score(last: jax.Array) -> jax.Array:
        logits: Any = model.apply(variables, last, method="classify")
        chosen = jnp.where(classes == _BEST, logits.argmax(-1), classes)
        return jnp.take_along_axis(logits, chosen[:, None], axis=-1).sum()  # Each logit depends on its own map alone.

    weights = jax.grad(score)(last).mean((1, 2), keepdims=True)
    return jax.nn.relu((weights * last).sum(-1))


def draw_heat_map(
    model: GCViT, variables: dict[str, Any], image: str | Path, out: str | Path, whole: bool = False
) -> None:
    """Draws the Grad-CAM of an image's best class over the upright image, into the PNG file `out` of the image's size.

    With `whole`, for models with `pad_to_windows`, the network sees the whole image (`whole_image`).

    Raises:
      UserError: (a ValueError) an image that cannot be read, a model without a head, or a picture that cannot be
        written.
    """
    photo = decode(image)
    preprocessing = whole_image(photo, model.preprocessing) if whole else model.preprocessing
    pixels = normalize(evaluation_crop(photo, preprocessing)[None], preprocessing)
    write_png(out, overlay(photo, grad_cam(model, variables, pixels)[0], crop_box(photo, preprocessing)))
