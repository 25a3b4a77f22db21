"""The files that heat maps of images are drawn into."""

import collections
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from gcvit_flax.data.image_files import is_image_name
from gcvit_flax.errors import UserError
from gcvit_flax.visualize.png import check_writable


def heat_map_paths(out: str, images: Sequence[str]) -> dict[str, Path]:
    """{image: picture to draw}: `out` itself if it is named as a picture, else PNG files in the folder `out`.

    In the folder pictures are named like their images and lie in folders like theirs, from the lowest
    folder that has all images on.

    Raises:
      UserError: (a ValueError) one picture for several images, a picture that cannot be written, or one that is an
        image itself.
    """
    folder = Path(out)
    if is_image_name(out) and not folder.is_dir():
        if len(images) != 1:
            raise UserError(f"{out} is a single picture, and the inputs are {len(images)} images: name a folder")
        check_writable(folder)
        pictures = {images[0]: folder}
    else:
        pictures = {image: folder / name for image, name in _names(images).items()}
    taken = {os.path.realpath(image) for image in images}
    for picture in pictures.values():
        if os.path.realpath(picture) in taken:
            raise UserError(f"the heat map {picture} would replace an image: name another place with --heatmap")
    return pictures


def make_folders(pictures: Iterable[Path]) -> None:
    """Makes the folders that `pictures` are to lie in.

    Raises:
      UserError: (a ValueError) one cannot be made.
    """
    for folder in {picture.parent for picture in pictures}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the folder {folder} cannot be made ({error.strerror}): name another place") from error


def _names(images: Sequence[str]) -> dict[str, str]:
    """{image: path of its picture below the folder}; the extension stays if images differ in nothing else."""
    absolute = {image: os.path.abspath(image) for image in images}
    common = os.path.commonpath([os.path.dirname(path) for path in absolute.values()])
    below = {image: os.path.relpath(path, common) for image, path in absolute.items()}
    counts = collections.Counter(os.path.splitext(path)[0] for path in {*below.values()})
    stems = {image: os.path.splitext(path)[0] for image, path in below.items()}
    return {image: f"{stem if counts[stem] == 1 else below[image]}.png" for image, stem in stems.items()}
