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
            found = sorted(path for path in _expand(item) if os.path.isfile(path))
            complaint = f"no file matches {item}: check the pattern, in which ** stands for any number of folders"
        else:
            found, complaint = [item], ""
        if not found:
            raise UserError(complaint)
        paths += found
    return paths


def images_below(folder: str) -> Iterator[str]:
    """The sorted paths, relative to `folder`, of all image files below it: none if it is not a folder, or no longer.

    Links are followed. Hidden files and folders are left out, and so are links that lead back (`leads_back`).
    """
    return (path for path, is_folder in _walk(folder) if not is_folder and is_image_name(path))


def leads_back(path: str) -> bool:
    """Whether `path` is a link to a folder that it lies in: followed, it would never end."""
    if not os.path.islink(path):
        return False
    target, place = os.path.realpath(path), os.path.realpath(os.path.dirname(path) or ".")
    return os.path.commonpath([target, place]) == target


def _walk(folder: str, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[tuple[str, bool]]:
    """`folder` and all that is below it, sorted, and whether it is a folder; paths are relative to `folder`, where it
    is empty itself, and those of folders end in a slash.

    A folder that is in itself by links through others is left out: `above` has the devices and inodes of those that it
    is in.
    """
    try:
        status = os.stat(folder or ".")
        with os.scandir(folder or ".") as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    yield "", True
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if not _is_folder(entry):
            yield entry.name, False
        elif not (entry.is_symlink() and leads_back(entry.path)):
            below = _walk(entry.path, above | {identity})
            yield from ((f"{entry.name}/{path}", is_folder) for path, is_folder in below)


def _expand(pattern: str) -> set[str]:
    """The paths that match a glob pattern; `**` follows links as `images_below` does, where `glob` goes in circles."""
    parts = pattern.split("/")
    if "**" not in parts:
        return {*glob.glob(pattern)}
    at = parts.index("**")
    start, rest = "/".join([*parts[:at], ""]), "/".join(parts[at + 1 :]) or "*"
    found: set[str] = set()
    for root in glob.glob(start) if start else [""]:
        for folder in [path for path, is_folder in _walk(root) if is_folder]:
            found |= _expand(glob.escape(root + folder) + rest)
    return found


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
