"""Maps of what the network sees, laid over the image it sees them in."""

import numpy as np
from PIL import Image

_COLOURS = "viridis"
_OPACITY = 0.6


def overlay(image: Image.Image, values: np.ndarray, box: tuple[float, float, float, float] | None = None) -> np.ndarray:
    """An RGB image with a map (h, w) laid over its part `box` (as `crop_box` gives it; default: all), uint8 (H, W, 3).

    The lowest value has the first colour of matplotlib's viridis and the highest its last; a constant map has the
    first. What is outside `box`, which the network does not see, becomes dark.
    """
    import matplotlib

    left, top, right, bottom = (round(side) for side in box or (0, 0, *image.size))
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    values = np.asarray(values, np.float32)
    span = values.max() - values.min()
    scaled = (values - values.min()) / (span if span > 0 else 1)
    resized = np.asarray(Image.fromarray(scaled).resize((right - left, bottom - top), Image.Resampling.BILINEAR))
    # In bytes from here on: photos have up to 180 megapixels.
    levels = (resized * 255).round().astype(np.uint8)
    colours = matplotlib.colormaps[_COLOURS](np.arange(256), bytes=True)[:, :3]
    shown = Image.blend(image.crop((left, top, right, bottom)), Image.fromarray(colours[levels]), _OPACITY)
    result = Image.blend(image, Image.new("RGB", image.size), _OPACITY)
    result.paste(shown, (left, top))
    return np.asarray(result)
