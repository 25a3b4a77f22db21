"""Data sets as the rest of the package sees them: labeled images by index."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from gcvit_flax.data.decode import ImageSource
from gcvit_flax.data.shared_array import SharedArray
from gcvit_flax.errors import UserError

TRAIN = "train"
SPLIT_SEED = 0  # The held-out fraction must not change with the run's seed.


class Source(Protocol):
    """Random access to examples (image, label, name); the name is for error messages."""

    def __len__(self) -> int:
        """The number of examples."""

    def __getitem__(self, index: int) -> tuple[ImageSource, int, str]:
        """The example at `index`."""


@dataclasses.dataclass(frozen=True)
class ListSource:
    """Examples in a list."""

    images: Sequence[ImageSource]
    labels: np.ndarray
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[ImageSource, int, str]:
        return self.images[index], int(self.labels[index]), self.names[index]


@dataclasses.dataclass(frozen=True)
class Subset:
    """The examples of `source` at `indices` (n,)."""

    source: Source
    indices: SharedArray

    def __len__(self) -> int:
        return len(self.indices.array)

    def __getitem__(self, index: int) -> tuple[ImageSource, int, str]:
        return self.source[int(self.indices.array[index])]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The two splits of a data set, and its class names in the order of the labels."""

    train: Source
    validation: Source
    class_names: tuple[str, ...]


def hold_out(source: Source, labels: np.ndarray, class_names: tuple[str, ...], fraction: float) -> Dataset:
    """Splits off a random `fraction` of every class, and at least one example, with a fixed seed.

    `labels` (n,) are those of `source`, in its order.

    Raises:
      UserError: (a ValueError) a class with a single example.
    """
    rng = np.random.default_rng(SPLIT_SEED)
    held_out = np.zeros(len(source), bool)
    by_label = np.argsort(labels, kind="stable")
    classes = np.split(by_label, np.searchsorted(labels[by_label], np.arange(1, len(class_names))))
    for members, name in zip(classes, class_names, strict=True):
        if len(members) < 2:
            raise UserError(f"class {name!r} has one image: to hold some out for validation it needs at least two")
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held_out[rng.permutation(members)[:count]] = True
    train, validation = (Subset(source, SharedArray(np.flatnonzero(mask))) for mask in (~held_out, held_out))
    return Dataset(train, validation, class_names)
