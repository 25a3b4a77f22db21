"""Random erasing (Zhong et al., 2020, algorithm 1), and the mask of a rectangle."""

import jax
import jax.numpy as jnp
import numpy as np

from gcvit_flax.config import Size

# Bounds of the share of the image's area, and of the logarithm of height / width.
_LOW = np.array([0.02, np.log(0.3)], np.float32)
_HIGH = np.array([1 / 3, -np.log(0.3)], np.float32)
_TRIES = 10


def erase(key: jax.Array, image: jax.Array, probability: float) -> jax.Array:
    """Replaces a random rectangle of a normalized image (H, W, 3) with normal noise, with `probability`.

    The rectangle takes 2 % to a third of the image, with an aspect ratio of 0.3 to 3.3; as in the paper, one that
    does not fit is drawn again.
    """
    erased_key, shape_key, place_key, noise_key = jax.random.split(key, 4)
    size = image.shape[0], image.shape[1]
    top, left, rows, columns, fits = _draw_rectangle(shape_key, place_key, size)
    erased = jax.random.bernoulli(erased_key, probability) & fits
    noise = jax.random.normal(noise_key, image.shape)
    return jnp.where(erased & rectangle(size, top, left, rows, columns), noise, image)


def _draw_rectangle(
    shape_key: jax.Array, place_key: jax.Array, size: Size
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """Top, left, rows and columns of the first of ten draws that is smaller than `size`, and whether there is one."""
    height, width = size
    area, log_aspect = jax.random.uniform(shape_key, (2, _TRIES), minval=_LOW[:, None], maxval=_HIGH[:, None])
    area, aspect = height * width * area, jnp.exp(log_aspect)
    rows, columns = (jnp.round(jnp.sqrt(x)) for x in (area * aspect, area / aspect))
    fits = (rows < height) & (columns < width)
    rows, columns = rows[fits.argmax()], columns[fits.argmax()]
    y, x = jax.random.uniform(place_key, (2,))
    return jnp.floor(y * (height - rows + 1)), jnp.floor(x * (width - columns + 1)), rows, columns, fits.any()


def rectangle(size: Size, top: jax.Array, left: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """The mask of a rectangle, which may reach beyond the image, in an image of `size`: bool (H, W, 1)."""
    y, x = jnp.arange(size[0])[:, None, None], jnp.arange(size[1])[:, None]
    return (y >= top) & (y < top + rows) & (x >= left) & (x < left + columns)
