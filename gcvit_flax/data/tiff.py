"""TIFF files with any number of channels, of samples of any type, which Pillow does not read."""

import io
import math
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from gcvit_flax.data.decode import UnreadableImage
from gcvit_flax.errors import summarize_error

if TYPE_CHECKING:
    import tifffile

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Where tifffile gives up reading a page, and up to which page it sees a circle.
_MOST_TAGS, _PAGES_OF_KNOWN_CIRCLES = 4096, 100


def is_tiff(source: str | os.PathLike[str] | bytes) -> bool:
    """Whether a file's name, or a file's content, is that of a TIFF file."""
    if isinstance(source, bytes):
        return source.startswith(_MAGIC)
    return Path(source).suffix.lower() in (".tif", ".tiff")


def read_tiff(source: str | os.PathLike[str] | bytes, name: str, channels: int) -> np.ndarray:
    """The first image of a TIFF file, (H, W) or (H, W, channels).

    Raises:
      UnreadableImage: (a UserError) a damaged file.
      FileNotFoundError, MemoryError, Image.DecompressionBombError: no file, or one that is too large.
    """
    import tifffile  # Slow to import.

    try:
        with tifffile.TiffFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            _check_that_pages_end(file)
            series = file.series[0]
            if math.prod(series.shape) > channels * 2 * (Image.MAX_IMAGE_PIXELS or math.inf):
                raise Image.DecompressionBombError
            page = series.keyframe
            if len(page.dataoffsets) < (expected := math.prod(page.chunked)):  # tifffile would fill up the rest.
                raise ValueError(f"{len(page.dataoffsets)} of {expected} strips or tiles")
            array, axes = series.asarray(), series.axes
    except (FileNotFoundError, MemoryError, Image.DecompressionBombError):
        raise  # `reported_as` says these.
    except Exception as error:  # Damaged files make tifffile raise errors of many kinds.
        raise UnreadableImage(
            f"{name}: not a TIFF file that tifffile can read ({summarize_error(error)}); replace or remove it"
        ) from error
    if array.ndim != 3 or not {*"YX"} <= {*axes}:
        return array
    upright = np.moveaxis(array, (axes.index("Y"), axes.index("X")), (0, 1))
    # An array (H, W, channels) that was written without further words is H pages in the file.
    return array if upright.shape[2] != channels == array.shape[2] else upright


def _check_that_pages_end(file: "tifffile.TiffFile") -> None:
    """Raises ValueError if tifffile, which counts the pages, would go around in a circle of them and collect memory.

    Each page ends with the place of the next (TIFF 6.0, section 2). tifffile ends at a circle that it has entered
    within its first pages.
    """
    tiff, stream, offset = file.tiff, file.filehandle, file.pages.first.offset
    seen: set[int] = set()
    while 0 < offset < stream.size and offset not in seen:
        seen.add(offset)
        stream.seek(offset)
        try:
            (tags,) = struct.unpack(tiff.tagnoformat, stream.read(tiff.tagnosize))
            if tags > _MOST_TAGS:
                return
            # Of a page that is cut off, tifffile too takes the last bytes there are.
            end = stream.read(tags * tiff.tagsize + tiff.offsetsize)[-tiff.offsetsize :]
            (offset,) = struct.unpack(tiff.offsetformat, end)
        except struct.error:
            return
    if offset in seen and len(seen) >= _PAGES_OF_KNOWN_CIRCLES:
        raise ValueError(f"after {len(seen)} pages comes an earlier one again")
