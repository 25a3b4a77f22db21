"""Maps of what the network sees, laid over the image it sees them in."""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from gcvit_flax.errors import UserError
from gcvit_flax.files import replace_bytes

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


def check_writable(path: str | os.PathLike) -> None:
    """Raises UserError unless a PNG can be written at `path`: to call before the work."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UserError(f"a picture's name must end in .png, got {path}")
    taken = path.is_dir() or (path.exists() and not os.access(path, os.W_OK))
    if taken or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"{path} cannot be written: name a picture in a folder that exists and that you may write to")


def write_png(path: str | os.PathLike, pixels: np.ndarray) -> None:
    """Writes uint8 (H, W, 3) to a PNG file of that size, all or nothing.

    Raises:
      UserError: (a ValueError) `path` cannot be written.
    """
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    _write(path, encoded)


def write_figure(path: str | os.PathLike, figure, **options) -> None:
    """Writes a matplotlib figure, with savefig's `options`, to a PNG file, all or nothing.

    Raises:
      UserError: (a ValueError) `path` cannot be written.
    """
    encoded = io.BytesIO()
    figure.savefig(encoded, format="png", **options)
    _write(path, encoded)


def _write(path: str | os.PathLike, encoded: io.BytesIO) -> None:
    try:
        replace_bytes(path, encoded.getvalue())
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}): choose another place") from error
