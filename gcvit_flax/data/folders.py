"""Data sets that are folders of images, one folder per class."""

from pathlib import Path

import numpy as np

from gcvit_flax.data.image_files import is_image_file
from gcvit_flax.data.sources import TRAIN, Dataset, ListSource, hold_out
from gcvit_flax.errors import UserError

_VALIDATION_FOLDERS = ("val", "test")  # The first that exists is used.


def open_folder(root: Path, val_fraction: float, split: str | None) -> Dataset:
    """Opens ROOT/{train,val or test}/CLASS/IMAGE, ROOT/train/CLASS/IMAGE or ROOT/CLASS/IMAGE.

    Without a validation folder a stratified `val_fraction` is held out; `split` names the validation folder.

    Raises:
      UserError: (a ValueError) folders that are missing, empty, or of classes that do not fit each other.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: give folder:PATH with PATH/CLASS/IMAGE or PATH/train/CLASS/IMAGE")
    train_root = root / TRAIN if (root / TRAIN).is_dir() else root
    if split is not None and not (root / split).is_dir():
        shown = ", ".join(_class_names(root)) or "none"
        raise UserError(f"{root} has no folder {split!r} to use as the split: it holds {shown}")
    held_out = [root / name for name in ([split] if split else _VALIDATION_FOLDERS) if (root / name).is_dir()]
    if train_root == root and held_out:
        train_root = held_out[0]  # A data set for evaluation only: nothing to train on, and no fraction to hold out.
    class_names = _class_names(train_root)
    if not class_names:
        raise UserError(f"{train_root} holds no class folders: expected {train_root}/CLASS/IMAGE")
    train = _list_images(train_root, class_names)
    if held_out:
        return Dataset(train, _list_images(held_out[0], class_names), class_names)
    return hold_out(train, class_names, val_fraction)


def _list_images(root: Path, class_names: tuple[str, ...]) -> ListSource:
    unknown = sorted({*_class_names(root)} - {*class_names})
    if unknown:
        raise UserError(f"{root} has classes that the training data lacks: {', '.join(unknown)}; remove or rename them")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        folder = root / name
        images = [path for path in _list_folder(folder) if is_image_file(path)]
        if not images:
            found = "holds no images" if folder.is_dir() else "is missing"
            raise UserError(f"class folder {folder} {found}: add some images, or remove the class")
        paths += images
        labels += [label] * len(images)
    return ListSource(paths, np.array(labels), [str(path) for path in paths])


def _class_names(root: Path) -> tuple[str, ...]:
    """The sorted names of the folders in `root`, without hidden ones."""
    return tuple(path.name for path in _list_folder(root) if path.is_dir() and not path.name.startswith("."))


def _list_folder(folder: Path) -> list[Path]:
    """The sorted contents of `folder`: none if it is not a folder, or no longer one."""
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
