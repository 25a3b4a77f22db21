"""Maps of what the network sees, laid over the image it sees them in."""

import os

import numpy as np
from PIL import Image

from gcvit_flax.errors import UserError

_COLOURS = "viridis"
_OPACITY = 0.6


def overlay(image: Image.Image, values: np.ndarray, box: tuple[float, float, float, float] | None = None) -> np.ndarray:
    """An RGB image with a map (h, w) laid over its part `box` (as `crop_box` gives it; default: all), uint8 (H, W, 3).

    The lowest value has the first colour of matplotlib's viridis and the highest its last; a constant map has the
    first. What is outside `box`, which the network does not see, becomes dark.
    """
    import matplotlib

    left, top, right, bottom = (round(side) for side in box or (0, 0, *image.size))
    shown = np.asarray(image, np.float32)[top:bottom, left:right] / 255
    values = np.asarray(values, np.float32)
    span = values.max() - values.min()
    scaled = (values - values.min()) / (span if span > 0 else 1)
    resized = Image.fromarray(scaled).resize(shown.shape[1::-1], Image.Resampling.BILINEAR)
    colours = matplotlib.colormaps[_COLOURS](np.asarray(resized))[..., :3]
    result = np.asarray(image, np.float32) / 255 * (1 - _OPACITY)
    result[top:bottom, left:right] = _OPACITY * colours + (1 - _OPACITY) * shown
    return (result * 255).round().astype(np.uint8)


def write_png(path: str | os.PathLike, pixels: np.ndarray) -> None:
    """Writes uint8 (H, W, 3) to a PNG file of that size, all or nothing.

    Raises:
      UserError: (a ValueError) `path` cannot be written.
    """
    import matplotlib.image

    partial = f"{path}.partial"
    try:
        matplotlib.image.imsave(partial, pixels, format="png")
        os.replace(partial, path)
    except OSError as error:
        if os.path.isfile(partial):
            os.remove(partial)
        raise UserError(f"{path} cannot be written ({error.strerror or error}): choose another place") from error
