"""The image files that a command line names: by file, folder, pattern or list."""

import functools
import glob
import os
import sys
from collections.abc import Iterator, Sequence
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
            found = [str(path) for name in images_below(item) if (path := Path(item, name)).is_file()]
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


def images_below(folder: str, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    """The sorted paths, relative to `folder`, of all image files below it: none if it is not a folder, or no longer.

    Links are followed. Hidden files and folders are left out, and so is a folder that leads back to one that it is in:
    `above` has their devices and inodes.
    """
    try:
        status = os.stat(folder)
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            yield from (f"{entry.name}/{path}" for path in images_below(entry.path, above | {identity}))
        elif is_image_name(entry.name):
            yield entry.name


def _is_folder(entry: os.DirEntry) -> bool:
    """Whether an entry is a folder or a link to one; a link to itself is not, where `entry.is_dir()` raises."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def is_image_name(name: str) -> bool:
    """Whether a file's name has the extension of a format that Pillow can read, or .npy."""
    return os.path.splitext(name)[1].lower() in _extensions()


@functools.cache
def _extensions() -> frozenset[str]:
    kinds = Image.registered_extensions()  # Registers all of Pillow's formats.
    readable = (ext for ext, kind in kinds.items() if kind in Image.OPEN and kind not in _UNREADABLE_FORMATS)
    return frozenset({*readable, ".npy"})
