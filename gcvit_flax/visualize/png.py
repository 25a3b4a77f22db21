"""Writes pictures as PNG files, atomically."""

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from gcvit_flax.atomic import check_replaceable, replace_bytes
from gcvit_flax.errors import UserError

if TYPE_CHECKING:  # Slow to import.
    from matplotlib.figure import Figure


def check_writable(path: str | os.PathLike) -> None:
    """Raises UserError unless a PNG file can be written at `path`: to be called before the computation."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UserError(f"a picture's name must end in .png, got {path}")
    check_replaceable(path, "a picture")


def write_png(path: str | os.PathLike, pixels: np.ndarray) -> None:
    """Writes uint8 pixels (H, W, 3) to a PNG file.

    Raises:
      UserError: (a ValueError) `path` cannot be written.
    """
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    _write(path, encoded)


def write_figure(path: str | os.PathLike, figure: "Figure", **options: Any) -> None:
    """Writes a matplotlib figure to a PNG file; `options` are those of `savefig`.

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
