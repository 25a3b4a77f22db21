"""Everything that training does to an image on the device, in order: flip, colors, normalization, erasing."""

import jax
import jax.numpy as jnp

from gcvit_flax.config import Preprocessing
from gcvit_flax.data.preprocess import normalize
from gcvit_flax.training.augment.erasing import erase
from gcvit_flax.training.augment.rand_augment import rand_augment
from gcvit_flax.training.train_config import TrainConfig

# Luma weights of ITU-R BT.601, as in Pillow's grayscale conversion.
_LUMA = (0.299, 0.587, 0.114)


def augment(
    key: jax.Array, images: jax.Array, index: jax.Array, preprocessing: Preprocessing, config: TrainConfig
) -> jax.Array:
    """Augments uint8 images (b, H, W, 3) as `config` says and normalizes them to float32.

    Each image's draw depends on `key`, one per step, and on the image's place `index` (b,) in the global batch.
    """
    mean_color = jnp.round(255 * jnp.array(preprocessing.mean)).astype(jnp.uint8)

    def augment_one(image: jax.Array, index: jax.Array) -> jax.Array:
        flip_key, color_key, erase_key = jax.random.split(jax.random.fold_in(key, index), 3)
        if config.flip:
            image = random_flip(flip_key, image)
        if config.rand_augment:
            image = rand_augment(color_key, image, config.rand_augment, mean_color)
        elif config.color_jitter:
            image = jitter_colors(color_key, image, config.color_jitter)
        image = normalize(image, preprocessing)
        return erase(erase_key, image, config.random_erasing) if config.random_erasing else image

    return jax.vmap(augment_one)(images, index)


def random_flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Mirrors an image (H, W, C) left to right with probability one half."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def jitter_colors(key: jax.Array, image: jax.Array, strength: float) -> jax.Array:
    """Scales brightness, contrast and saturation, in this order, of an image (H, W, 3) of values 0..255.

    Each factor is uniform in 1 - strength .. 1 + strength; the result is float32, clipped to 0..255.
    """
    luma = jnp.asarray(_LUMA)
    brightness, contrast, saturation = jax.random.uniform(key, (3,), minval=1 - strength, maxval=1 + strength)
    image = (image.astype(jnp.float32) * brightness).clip(0, 255)
    mean = (image @ luma).mean()
    image = (mean + contrast * (image - mean)).clip(0, 255)
    gray = (image @ luma)[..., None]
    return (gray + saturation * (image - gray)).clip(0, 255)
