"""Data sets as the rest of the package sees them: labeled images by index."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from gcvit_flax.data.decode import ImageSource, UnreadableImage
from gcvit_flax.data.shared_array import SharedArray
from gcvit_flax.errors import UserError, summarize_error

TRAIN = "train"
SPLIT_SEED = 0  # The held-out fraction must not change with the run's seed.


class Source(Protocol):
    """Random access to examples (image, label, name); the name is for error messages."""

    def __len__(self) -> int:
        """The number of examples."""

    def __getitem__(self, index: int) -> tuple[ImageSource, int, str]:
        """The example at `index`."""

    @property
    def labels(self) -> np.ndarray:
        """The labels of all examples, int64 (n,); some sources have to read the examples for them."""


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

    @property
    def labels(self) -> np.ndarray:
        """The labels of all examples, int64 (n,)."""
        return self.source.labels[self.indices.array]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The two splits of a data set, and its class names in the order of the labels."""

    train: Source
    validation: Source
    class_names: tuple[str, ...]


def read_record(records: Sequence[dict[str, Any]], index: int, name: str, remedy: str) -> dict[str, Any]:
    """The record at `index`, which a library reads from disk; `name` and `remedy` are for the error.

    Raises:
      UnreadableImage: (a UserError) a file that is damaged, or was removed since it was opened.
    """
    try:
        return records[index]
    except Exception as error:  # Libraries raise errors of many kinds for these.
        raise UnreadableImage(f"{name}: cannot be read ({summarize_error(error)}); {remedy}") from error


def check_label(label: int | None, num_classes: int, name: str) -> int:
    """The label of the example `name`, or a UserError if it is none: parts without labels are stored with -1."""
    if label is None or not 0 <= label < num_classes:
        raise UserError(
            f"{name} has the label {label}, expected 0 to {num_classes - 1}: "
            "choose a split that has labels, or prepare the data again"
        )
    return int(label)


def split_by_class(labels: np.ndarray, num_classes: int) -> list[np.ndarray]:
    """The indices of each class's examples, in their order; `labels` is (n,)."""
    by_label = np.argsort(labels, kind="stable")
    return np.split(by_label, np.searchsorted(labels[by_label], np.arange(1, num_classes)))


def hold_out(source: Source, labels: np.ndarray, class_names: tuple[str, ...], fraction: float) -> Dataset:
    """Splits off a random `fraction` of every class, and at least one example if it has any, with a fixed seed.

    `labels` (n,) are those of `source`, in its order.

    Raises:
      UserError: (a ValueError) a class with a single example.
    """
    rng = np.random.default_rng(SPLIT_SEED)
    held_out = np.zeros(len(source), bool)
    for members, name in zip(split_by_class(labels, len(class_names)), class_names, strict=True):
        if len(members) == 1:
            raise UserError(f"class {name!r} has one image: to hold some out for validation it needs at least two")
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held_out[rng.permutation(members)[: max(0, count)]] = True
    return _split_at(source, held_out, class_names)


def hold_out_last(source: Source, class_names: tuple[str, ...], fraction: float) -> Dataset:
    """Splits off the last `fraction`, and at least one example, of a source in random order.

    Raises:
      UserError: (a ValueError) a source with a single example.
    """
    total = len(source)
    if total < 2:
        raise UserError("one image is not enough to hold some out for validation: choose a larger part")
    count = min(max(1, round(fraction * total)), total - 1)
    return _split_at(source, np.arange(total) >= total - count, class_names)


def _split_at(source: Source, held_out: np.ndarray, class_names: tuple[str, ...]) -> Dataset:
    train, validation = (Subset(source, SharedArray(np.flatnonzero(mask))) for mask in (~held_out, held_out))
    return Dataset(train, validation, class_names)
