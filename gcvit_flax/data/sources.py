"""Images with labels, by index: what a data set is to the rest of the package."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from gcvit_flax.errors import UserError

TRAIN = "train"
SPLIT_SEED = 0  # The held-out fraction must not change with the run's seed.


class Source(Protocol):
    """A random-access list of (image, label, name): what `decode` takes, an int, and a name for errors."""

    def __len__(self) -> int:
        """How many examples there are."""

    def __getitem__(self, index: int) -> tuple[Any, int, str]:
        """One example."""


@dataclasses.dataclass(frozen=True)
class ListSource:
    """Examples held in memory: arrays, or the paths of image files."""

    images: Sequence[Any]
    labels: np.ndarray
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int, str]:
        return self.images[index], int(self.labels[index]), self.names[index]

    def take(self, indices: np.ndarray) -> "ListSource":
        """The examples at `indices`."""
        return ListSource([self.images[i] for i in indices], self.labels[indices], [self.names[i] for i in indices])


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set's two splits and its class names, in label order."""

    train: Source
    validation: Source
    class_names: tuple[str, ...]


def hold_out(examples: ListSource, class_names: tuple[str, ...], fraction: float) -> Dataset:
    """Splits off the same fraction of every class, at least one example, at random with a fixed seed.

    Raises:
      UserError: (a ValueError) a class of a single example.
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
