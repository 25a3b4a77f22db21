"""Maps laid over the image that they belong to."""

import numpy as np
from PIL import Image

Box = tuple[float, float, float, float]  # Left, top, right and bottom in pixels.

_COLORMAP = "viridis"
_OPACITY = 0.6


def overlay(image: Image.Image, values: np.ndarray, box: Box | None = None) -> np.ndarray:
    """An RGB image with a map (h, w) laid over the part in `box`, by default all of it: uint8 (H, W, 3).

    `box` is the part that the network sees, as `crop_box` returns it; the rest is darkened. The lowest value has the
    first color of matplotlib's viridis and the highest value the last; a constant map has the first.
    """
    import matplotlib

    left, top, right, bottom = (round(side) for side in box or (0, 0, *image.size))
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    values = np.asarray(values, np.float32)
    span = values.max() - values.min()
    scaled = (values - values.min()) / (span if span > 0 else 1)
    resized = np.asarray(Image.fromarray(scaled).resize((right - left, bottom - top), Image.Resampling.BILINEAR))
    # From here on in bytes: photos have up to 180 megapixels.
    levels = (resized * 255).round().astype(np.uint8)
    colors = matplotlib.colormaps[_COLORMAP](np.arange(256), bytes=True)[:, :3]
    shown = Image.blend(image.crop((left, top, right, bottom)), Image.fromarray(colors[levels]), _OPACITY)
    result = Image.blend(image, Image.new("RGB", image.size), _OPACITY)
    result.paste(shown, (left, top))
    return np.asarray(result)
