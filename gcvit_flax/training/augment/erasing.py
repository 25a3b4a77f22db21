"""Random erasing (Zhong et al., 2020, algorithm 1), and the mask of a rectangle."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gcvit_flax.config import Size

# Bounds of the share of the image's area, and of the logarithm of height / width.
_LOW = np.array([0.02, np.log(0.3)], np.float32)
_HIGH = np.array([1 / 3, -np.log(0.3)], np.float32)
_TRIES = 10


class Erasing(NamedTuple):
    """Whether to erase, the rectangle's top, left, rows and columns, and the key of its noise."""

    erased: jax.Array
    rectangle: tuple[jax.Array, jax.Array, jax.Array, jax.Array]
    noise_key: jax.Array


def draw_erasing(key: jax.Array, size: Size, probability: float) -> Erasing:
    """A rectangle of an image of `size`, to be erased with `probability`.

    The rectangle takes 2 % to a third of the image, with an aspect ratio of 0.3 to 3.3; as in the paper, one that
    does not fit is drawn again.
    """
    erased_key, shape_key, place_key, noise_key = jax.random.split(key, 4)
    height, width = size
    area, log_aspect = jax.random.uniform(shape_key, (2, _TRIES), minval=_LOW[:, None], maxval=_HIGH[:, None])
    area, aspect = height * width * area, jnp.exp(log_aspect)
    rows, columns = (jnp.round(jnp.sqrt(x)) for x in (area * aspect, area / aspect))
    fits = (rows < height) & (columns < width)
    rows, columns = rows[fits.argmax()], columns[fits.argmax()]
    y, x = jax.random.uniform(place_key, (2,))
    top, left = jnp.floor(y * (height - rows + 1)), jnp.floor(x * (width - columns + 1))
    erased = jax.random.bernoulli(erased_key, probability) & fits.any()
    return Erasing(erased, (top, left, rows, columns), noise_key)


def erase(images: jax.Array, erasing: Erasing) -> jax.Array:
    """Erases from normalized images (b, H, W, 3) what `erasing`, arrays (b, ...), says."""
    return jax.lax.platform_dependent(
        images,
        erasing,
        cpu=lambda *batch: jax.lax.map(lambda one: erase_one(*one), batch),  # Draws no noise where nothing is erased.
        default=jax.vmap(erase_one),
    )


def erase_one(image: jax.Array, erasing: Erasing) -> jax.Array:
    """Replaces the rectangle of a normalized image (H, W, 3) with normal noise, if it is to be erased."""

    def fill(image: jax.Array) -> jax.Array:
        noise = jax.random.normal(erasing.noise_key, image.shape)
        return jnp.where(rectangle((image.shape[0], image.shape[1]), *erasing.rectangle), noise, image)

    return jax.lax.cond(erasing.erased, fill, lambda image: image, image)


def rectangle(size: Size, top: jax.Array, left: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """The mask of a rectangle, which may reach beyond the image, in an image of `size`: bool (H, W, 1)."""
    y, x = jnp.arange(size[0])[:, None, None], jnp.arange(size[1])[:, None]
    return (y >= top) & (y < top + rows) & (x >= left) & (x < left + columns)
