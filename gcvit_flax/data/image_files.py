"""The image files that a command line names: by file, folder, pattern or list."""

import glob
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from gcvit_flax.errors import UserError

# Formats that Pillow recognizes but cannot read by itself.
_UNREADABLE_FORMATS = ("BUFR", "GRIB", "HDF5", "MPEG", "WMF")


def find_images(inputs: Sequence[str]) -> list[str]:
    """The paths of the images that `inputs` name, in order; files are not opened.

    A folder stands for all image files below it, sorted; a glob pattern, in which `**` is any number of folders, for
    the files that match it, sorted; and "-" for the paths on standard input, one per line.

    Raises:
      UserError: (a ValueError) a folder or standard input without an image, or a pattern that no file matches.
    """
    paths: list[str] = []
    for item in inputs:
        if item == "-":
            # Read as bytes, since a file's name need not be text.
            found = [os.fsdecode(line) for line in sys.stdin.buffer.read().splitlines() if line.strip()]
            complaint = "standard input is empty: write the path of one image on each line"
        elif os.path.isdir(item):
            found = _images_below(item)
            complaint = f"{item} holds no images: name image files, or a folder that has some"
        elif glob.has_magic(item) and not os.path.exists(item):
            found = sorted(path for path in glob.glob(item, recursive=True) if os.path.isfile(path))
            complaint = f"no file matches {item}: check the pattern, in which ** stands for any number of folders"
        else:
            found, complaint = [item], ""
        if not found:
            raise UserError(complaint)
        paths += found
    return paths


def _images_below(folder: str) -> list[str]:
    """All image files below `folder`, sorted, without those in hidden folders."""
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [path for name in names if is_image_file(path := Path(parent, name))]
    return [str(path) for path in sorted(found) if path.is_file()]


def is_image_file(path: Path) -> bool:
    """Whether a file is not hidden and has the name extension of a format that Pillow can read."""
    kind = Image.registered_extensions().get(path.suffix.lower())  # Registers all of Pillow's formats.
    return kind in Image.OPEN and kind not in _UNREADABLE_FORMATS and not path.name.startswith(".")
