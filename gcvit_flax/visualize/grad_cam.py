"""Grad-CAM (Selvaraju et al., 2017): where in an image the network sees a class."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gcvit_flax.config import NUM_LEVELS, level_grids
from gcvit_flax.data.bands import as_rgb, read_picture
from gcvit_flax.data.crops import crop_box, evaluation_crop, whole_image
from gcvit_flax.data.decode import reported_as
from gcvit_flax.data.preprocess import normalize
from gcvit_flax.errors import UserError
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.visualize.attention_weights import select
from gcvit_flax.visualize.overlay import overlay
from gcvit_flax.visualize.png import write_png

_BEST = -1  # Stands for the class of the highest logit; one compiled program handles both cases.


def grad_cam(
    model: GCViT,
    variables: dict[str, Any],
    images: np.ndarray | jax.Array,
    classes: Sequence[int] | np.ndarray | None = None,
    level: int = NUM_LEVELS - 1,
) -> np.ndarray:
    """The evidence at each position of a level's map for each image's class, float32 (B, H/32, W/32) at the last.

    `images` (B, H, W, channels) are normalized, as `preprocess` returns them; `classes` (B,) are by default those of
    the highest logits. The channels of the map are weighted by the mean gradient of the class's logit and summed;
    negative values are set to 0 (equations 1 and 2).

    Raises:
      UserError: (a ValueError) a model without a head, or a level or classes that it does not have.
    """
    select("the network", "level", level, NUM_LEVELS)
    count = model.config.num_classes
    if not count:
        raise UserError(
            "Grad-CAM needs the logits of a class, and this model has no head (num_classes is 0): load one with a head"
        )
    if classes is None:
        return np.asarray(_grad_cam(model, variables, images, np.full(len(images), _BEST), level))
    chosen = np.asarray(classes)
    if chosen.shape != (len(images),) or not np.issubdtype(chosen.dtype, np.integer):
        raise UserError(f"classes must be {len(images)} ints, one per image, got {chosen.dtype} {chosen.shape}")
    if chosen.min() < 0 or chosen.max() >= count:
        raise UserError(f"classes must be from 0 to {count - 1}, the model's, got {chosen.tolist()}")
    return np.asarray(_grad_cam(model, variables, images, chosen, level))


@functools.partial(jax.jit, static_argnums=(0, 4))
def _grad_cam(
    model: GCViT, variables: dict[str, Any], images: np.ndarray | jax.Array, classes: np.ndarray | jax.Array, level: int
) -> jax.Array:
    reader = (
        ("norm",) if level == NUM_LEVELS - 1 else (f"levels_{level}", "downsample")
    )  # The module that the map enters.
    network = model.clone(remat=False)  # Whose modules are not traced apart, so that their inputs can be kept.

    def score(change: jax.Array) -> tuple[jax.Array, jax.Array]:
        maps = []

        def add_change(call: Callable, arguments: Any, options: Any, context: nn.module.InterceptorContext) -> Any:
            if context.module.path == reader and context.method_name == "__call__":
                maps.append(arguments[0])
                arguments = (arguments[0] + change.astype(arguments[0].dtype),)
            return call(*arguments, **options)

        with nn.intercept_methods(add_change):
            logits: Any = network.apply(variables, images)
        chosen = jnp.where(classes == _BEST, logits.argmax(-1), classes)
        # Each logit depends on its own map alone.
        return jnp.take_along_axis(logits, chosen[:, None], axis=-1).sum(), maps[0].astype(jnp.float32)

    grid = level_grids((images.shape[1], images.shape[2]))[level]
    gradients, values = jax.grad(score, has_aux=True)(jnp.zeros((len(images), *grid, model.config.dims[level])))
    return jax.nn.relu((gradients.mean((1, 2), keepdims=True) * values).sum(-1))


def draw_heat_map(
    model: GCViT,
    variables: dict[str, Any],
    image: str | Path,
    out: str | Path,
    whole: bool = False,
    *,
    class_index: int | None = None,
    level: int | None = None,
) -> None:
    """Draws the Grad-CAM of a class, by default the image's best, over the upright image, as large, into the PNG `out`.

    With `whole`, for models with `pad_to_windows`, the network sees the whole image (`whole_image`). An image of other
    channels than RGB is shown as `as_rgb` makes it.

    Raises:
      UnreadableImage: (a UserError) an image that cannot be read, or for whose picture there is no memory.
      UserError: (a ValueError) a model without a head or the class, or a picture that cannot be written.
    """
    with reported_as(str(image)):
        photo = read_picture(image, channels=model.preprocessing.channels)
        preprocessing = whole_image(photo, model.preprocessing) if whole else model.preprocessing
        pixels = normalize(evaluation_crop(photo, preprocessing)[None], preprocessing)
    classes = None if class_index is None else [class_index]
    evidence = grad_cam(model, variables, pixels, classes, NUM_LEVELS - 1 if level is None else level)[0]
    with reported_as(str(image)):
        write_png(out, overlay(as_rgb(photo), evidence, crop_box(photo, preprocessing)))
