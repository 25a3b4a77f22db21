"""Which image files a command line means: files, folders, patterns and lists."""

import glob
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from gcvit_flax.errors import UserError


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
    """All files below `folder` whose names end as Pillow knows images to, but for hidden ones, sorted."""
    suffixes = Image.registered_extensions()
    files = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in suffixes)
    return [str(path) for path in files if path.is_file() and not path.name.startswith(".")]
