"""Everything that training does to an image on the device, in order: flip, colors, normalization, erasing."""

from typing import Any

import jax
import jax.numpy as jnp

from gcvit_flax.config import Preprocessing, Size
from gcvit_flax.data.bands import RGB
from gcvit_flax.data.preprocess import normalize
from gcvit_flax.training.augment.erasing import draw_erasing, erase
from gcvit_flax.training.augment.operations import draw_operations
from gcvit_flax.training.augment.rand_augment import rand_augment
from gcvit_flax.training.train_config import TrainConfig


def augment(
    key: jax.Array, images: jax.Array, index: jax.Array, preprocessing: Preprocessing, config: TrainConfig
) -> jax.Array:
    """Augments images (b, H, W, channels) as `config` says and normalizes them to float32.

    What changes colors, color jitter and RandAugment, is for RGB alone and left out for images of other channels.
    Each image's draw depends on `key`, one per step, and on the image's place `index` (b,) in the global batch.
    """
    size = images.shape[1], images.shape[2]
    draws = jax.vmap(lambda i: draw(jax.random.fold_in(key, i), size, config, colors=images.shape[-1] == RGB))(index)
    if "flip" in draws:
        images = jnp.where(draws["flip"][:, None, None, None], images[:, :, ::-1], images)
    planes = jnp.moveaxis(images, -1, 1)
    if "operations" in draws:
        fill = jnp.round(255 * jnp.array(preprocessing.mean)).astype(jnp.uint8)
        planes = rand_augment(planes, draws["operations"], fill)
    if "color_factors" in draws:
        planes = jax.vmap(jitter_colors)(planes, draws["color_factors"])
    images = normalize(jnp.moveaxis(planes, 1, -1), preprocessing)
    return erase(images, draws["erasing"]) if "erasing" in draws else images


def draw(key: jax.Array, size: Size, config: TrainConfig, *, colors: bool = True) -> dict[str, Any]:
    """Everything random about one image of `size`, by what it is for; without `colors`, nothing that changes them."""
    flip_key, color_key, erase_key = jax.random.split(key, 3)
    draws: dict[str, Any] = {}
    if config.flip:
        draws["flip"] = jax.random.bernoulli(flip_key)
    if config.rand_augment and colors:
        draws["operations"] = draw_operations(color_key, config.rand_augment, size)
    elif config.color_jitter and colors:
        low, high = 1 - config.color_jitter, 1 + config.color_jitter
        draws["color_factors"] = jax.random.uniform(color_key, (3,), minval=low, maxval=high)
    if config.random_erasing:
        draws["erasing"] = draw_erasing(erase_key, size, config.random_erasing)
    return draws


def jitter_colors(planes: jax.Array, factors: jax.Array) -> jax.Array:
    """Scales brightness, contrast and saturation, in this order, of planes (3, H, W) of values 0..255 by `factors`.

    The result is float32, clipped to 0..255.
    """
    brightness, contrast, saturation = factors
    planes = (planes.astype(jnp.float32) * brightness).clip(0, 255)
    mean = _luma(planes).mean()
    planes = (mean + contrast * (planes - mean)).clip(0, 255)
    gray = _luma(planes)
    return (gray + saturation * (planes - gray)).clip(0, 255)


def _luma(planes: jax.Array) -> jax.Array:
    """The luma (H, W) of ITU-R BT.601, as in Pillow's grayscale conversion."""
    red, green, blue = planes
    return 0.299 * red + 0.587 * green + 0.114 * blue  # Not a product of matrices, which TPUs round to bfloat16.
