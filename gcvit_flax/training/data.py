"""Where images and labels come from: the embedded digits, image folders and prepared tensorflow-datasets."""

import dataclasses
import importlib.resources
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gcvit_flax.errors import UserError
from gcvit_flax.image_files import is_image_file

TRAIN, VALIDATION = "train", ("val", "test")
SPLIT_SEED = 0  # The held-out fraction must not change with the run's seed.


class Source(Protocol):
    """A random-access list of (image, label, name): what `images.decode` takes, an int, and a name for errors."""

    def __len__(self) -> int:
        """How many examples there are."""

    def __getitem__(self, index: int) -> tuple[Any, int, str]:
        """One example."""


@dataclasses.dataclass(frozen=True)
class Listed:
    """Examples held in memory: arrays, or the paths of image files."""

    images: Sequence[Any]
    labels: np.ndarray
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int, str]:
        return self.images[index], int(self.labels[index]), self.names[index]

    def take(self, indices: np.ndarray) -> "Listed":
        """The examples at `indices`."""
        return Listed([self.images[i] for i in indices], self.labels[indices], [self.names[i] for i in indices])


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set's two splits and its class names, in label order."""

    train: Source
    validation: Source
    class_names: tuple[str, ...]


def open_data(spec: str, val_fraction: float = 0.1, split: str | None = None) -> Data:
    """Opens `digits`, `folder:PATH` or `tfds:NAME`.

    A folder holds PATH/{train,val or test}/CLASS/IMAGE, PATH/train/CLASS/IMAGE or PATH/CLASS/IMAGE; where no
    held-out part exists, a stratified `val_fraction` with a fixed seed is. `split` names the part to use for
    validation: a folder below PATH, or tfds split syntax.

    Raises:
      UserError: (a ValueError) data that is missing, empty, of one class only, or a spec of another form.
    """
    if not 0 < val_fraction < 1:
        raise UserError(f"--val-fraction must be above 0 and below 1, got {val_fraction}")
    kind, _, name = spec.partition(":")
    if spec == "digits":
        data = _digits(val_fraction)
    elif kind == "folder" and name:
        data = _folder(Path(name).expanduser(), val_fraction, split)
    elif kind == "tfds" and name:
        from gcvit_flax.training.tfds_data import open_tfds

        data = open_tfds(name, val_fraction, split)
    else:
        raise UserError(f"unknown data {spec!r}: expected digits, folder:PATH or tfds:NAME")
    if len(data.class_names) < 2:
        raise UserError(f"{spec} has the single class {data.class_names[0]!r}: a classifier needs at least two")
    return data


def _digits(val_fraction: float) -> Data:
    file = importlib.resources.files("gcvit_flax") / "data" / "digits.npz"
    with file.open("rb") as stream, np.load(stream) as arrays:
        images, labels = arrays["images"], arrays["labels"].astype(np.int64)
    images = (images.astype(np.float32) * (255 / 16)).round().astype(np.uint8)  # grey levels are 0..16
    examples = Listed(images, labels, [f"digit {i}" for i in range(len(labels))])
    return _hold_out(examples, tuple("0123456789"), val_fraction)


def _folder(root: Path, val_fraction: float, split: str | None) -> Data:
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: give folder:PATH with PATH/CLASS/IMAGE or PATH/train/CLASS/IMAGE")
    train_root = root / TRAIN if (root / TRAIN).is_dir() else root
    if split is not None and not (root / split).is_dir():
        raise UserError(f"{root} has no folder {split!r} to use as the split: it holds {_list_folders(root)}")
    held_out = [root / name for name in ([split] if split else VALIDATION) if (root / name).is_dir()]
    if train_root == root and held_out:
        train_root = held_out[0]  # Only evaluation data: there is nothing to train on, and no fraction to hold out.
    class_names = tuple(sorted(path.name for path in _folders(train_root)))
    if not class_names:
        raise UserError(f"{train_root} holds no class folders: expected {train_root}/CLASS/IMAGE")
    train = _list_images(train_root, class_names)
    if held_out:
        return Data(train, _list_images(held_out[0], class_names), class_names)
    return _hold_out(train, class_names, val_fraction)


def _list_images(root: Path, class_names: tuple[str, ...]) -> Listed:
    unknown = sorted({path.name for path in _folders(root)} - set(class_names))
    if unknown:
        raise UserError(f"{root} has classes that the training data lacks: {', '.join(unknown)}; remove or rename them")
    paths, labels = [], []
    for label, name in enumerate(class_names):
        folder = root / name
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        images = [path for path in files if is_image_file(path)]
        if not images:
            raise UserError(f"class folder {folder} holds no images: add some, or remove the class")
        paths += images
        labels += [label] * len(images)
    return Listed(paths, np.array(labels), [str(path) for path in paths])


def _hold_out(examples: Listed, class_names: tuple[str, ...], fraction: float) -> Data:
    """Splits off the same fraction of every class, at least one example, at random with a fixed seed."""
    rng = np.random.default_rng(SPLIT_SEED)
    held_out = np.zeros(len(examples), bool)
    for label, name in enumerate(class_names):
        members = np.flatnonzero(examples.labels == label)
        if len(members) < 2:
            raise UserError(f"class {name!r} has one image: to hold some out for validation it needs at least two")
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held_out[rng.permutation(members)[:count]] = True
    train, validation = (examples.take(np.flatnonzero(mask)) for mask in (~held_out, held_out))
    return Data(train, validation, class_names)


def _folders(root: Path) -> list[Path]:
    return [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _list_folders(root: Path) -> str:
    return ", ".join(sorted(path.name for path in _folders(root))) or "none"
