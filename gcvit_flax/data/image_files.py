"""Which image files a command line means: files, folders, patterns and lists."""

import glob
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from gcvit_flax.errors import UserError

# Formats that Pillow recognises and leaves to others to read.
_STUBS = ("BUFR", "GRIB", "HDF5", "MPEG", "WMF")


def find_images(inputs: Sequence[str]) -> list[str]:
    """The paths of the images that `inputs` name, in their order; whether a file can be read is not looked at.

    A folder stands for all image files below it, sorted; a glob pattern, in which `**` is any number of folders, for
    the files that match it, sorted; and "-" for the paths on standard input, one a line.

    Raises:
      UserError: (a ValueError) a folder or standard input without an image, or a pattern that no file matches.
    """
    paths = []
    for item in inputs:
        if item == "-":
            # As bytes, since a file's name need not be text.
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
    """All image files below `folder`, but for those in hidden folders, sorted."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [path for name in names if is_image_file(path := Path(parent, name))]
    return [str(path) for path in sorted(found) if path.is_file()]


def is_image_file(path: Path) -> bool:
    """Whether a file is not hidden and ends in what Pillow, or a part of it that comes with it, can read."""
    kind = Image.registered_extensions().get(path.suffix.lower())  # Which makes Pillow register them all.
    return kind in Image.OPEN and kind not in _STUBS and not path.name.startswith(".")
