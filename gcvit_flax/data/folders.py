"""Data sets that are folders of images, one folder per class."""

import dataclasses
import os
from pathlib import Path

import numpy as np

from gcvit_flax.data.decode import ImageSource
from gcvit_flax.data.image_files import images_below, leads_back
from gcvit_flax.data.shared_array import SharedArray
from gcvit_flax.data.sources import TRAIN, Dataset, hold_out
from gcvit_flax.data.spec import Parts
from gcvit_flax.errors import UserError

_VALIDATION_FOLDERS = ("val", "test")  # The first that exists is used.


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """The image files of one folder per class, in the order of the classes.

    Millions of names are kept in one buffer: their bytes, which need not be text, each with a zero behind. Image i's
    begins at starts[i], and class c's images begin at firsts[c]; both have one more entry for the end.
    """

    folders: tuple[str, ...]
    firsts: np.ndarray
    names: SharedArray
    starts: SharedArray

    def __len__(self) -> int:
        return len(self.starts.array) - 1

    def __getitem__(self, index: int) -> tuple[ImageSource, int, str]:
        label = int(np.searchsorted(self.firsts, index, side="right")) - 1
        start, end = self.starts.array[index : index + 2]
        path = os.path.join(self.folders[label], os.fsdecode(self.names.array[start : end - 1].tobytes()))
        return path, label, path

    @property
    def labels(self) -> np.ndarray:
        """The labels of all images, int64 (n,)."""
        return np.repeat(np.arange(len(self.folders)), np.diff(self.firsts))


def open_folder(root: Path, val_fraction: float, parts: Parts) -> Dataset:
    """Opens ROOT/{train,val or test}/CLASS/IMAGE, ROOT/train/CLASS/IMAGE or ROOT/CLASS/IMAGE.

    Without a validation folder a stratified `val_fraction` is held out; `parts` are names of folders in ROOT.

    Raises:
      UserError: (a ValueError) folders that are missing, empty, or of classes that do not fit each other.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: give folder:PATH with PATH/CLASS/IMAGE or PATH/train/CLASS/IMAGE")
    folders = _class_names(root)
    for part in (parts.train, parts.validation):
        if part is not None and not (root / part).is_dir():
            shown = ", ".join(folders) or "none"
            raise UserError(f"{root} has no folder {part!r} to use as the split: it holds {shown}")
    validation = parts.choose_validation(folders, _VALIDATION_FOLDERS)
    # Without train: for evaluation only, with no fraction to hold out.
    train = parts.train or (TRAIN if (root / TRAIN).is_dir() else validation)
    train_root = root if train is None else root / train
    class_names = folders if train is None else _class_names(train_root)
    if not class_names:
        raise UserError(f"{train_root} holds no class folders: expected {train_root}/CLASS/IMAGE")
    images = _list_images(train_root, class_names)
    if validation is not None:
        return Dataset(images, _list_images(root / validation, class_names), class_names)
    return hold_out(images, images.labels, class_names, val_fraction)


def _list_images(root: Path, class_names: tuple[str, ...]) -> FolderSource:
    unknown = sorted({*_class_names(root)} - {*class_names})
    if unknown:
        raise UserError(f"{root} has classes that the training data lacks: {', '.join(unknown)}; remove or rename them")
    names, counts = [], []
    for folder in (root / name for name in class_names):
        images = [*images_below(str(folder))]
        if not images:
            found = "holds no images" if folder.is_dir() else "is missing"
            raise UserError(f"class folder {folder} {found}: add some images, or remove the class")
        names.append(b"".join(os.fsencode(image) + b"\0" for image in images))
        counts.append(len(images))
    buffer = np.frombuffer(b"".join(names), np.uint8)
    starts = np.concatenate([[0], np.flatnonzero(buffer == 0) + 1])
    folders = tuple(str(root / name) for name in class_names)
    return FolderSource(folders, np.cumsum([0, *counts]), SharedArray(buffer), SharedArray(starts))


def _class_names(root: Path) -> tuple[str, ...]:
    """The sorted names of the folders in `root`, without hidden ones and links that lead back to it."""
    folders = (path for path in _list_folder(root) if path.is_dir() and not path.name.startswith("."))
    return tuple(path.name for path in folders if not leads_back(str(path)))


def _list_folder(folder: Path) -> list[Path]:
    """The sorted contents of `folder`: none if it is not a folder, or no longer one."""
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
