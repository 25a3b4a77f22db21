"""Data sets as the rest of the package sees them: labeled images by index."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from gcvit_flax.data.decode import ImageSource
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
    """Examples in a list: arrays, or the paths of image files."""

    images: Sequence[ImageSource]
    labels: np.ndarray
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[ImageSource, int, str]:
        return self.images[index], int(self.labels[index]), self.names[index]

    def take(self, indices: np.ndarray) -> "ListSource":
        """The examples at `indices`."""
        return ListSource([self.images[i] for i in indices], self.labels[indices], [self.names[i] for i in indices])


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The two splits of a data set, and its class names in the order of the labels."""

    train: Source
    validation: Source
    class_names: tuple[str, ...]


def hold_out(examples: ListSource, class_names: tuple[str, ...], fraction: float) -> Dataset:
    """Splits off a random `fraction` of every class, and at least one example, with a fixed seed.

    Raises:
      UserError: (a ValueError) a class with a single example.
    """
    rng = np.random.default_rng(SPLIT_SEED)
    held_out = np.zeros(len(examples), bool)
    for label, name in enumerate(class_names):
        members = np.flatnonzero(examples.labels == label)
        if len(members) < 2:
            raise UserError(f"class {name!r} has one image: to hold some out for validation it needs at least two")
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held_out[rng.permutation(members)[:count]] = True
    train, validation = (examples.take(np.flatnonzero(mask)) for mask in (~held_out, held_out))
    return Dataset(train, validation, class_names)
