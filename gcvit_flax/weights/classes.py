"""Classes by index, name and WordNet id: the most probable of logits, and those that a data set shares with a model."""

import difflib
import functools
import importlib.resources
from collections.abc import Sequence

import numpy as np

from gcvit_flax.errors import UserError


def best_classes(logits: np.ndarray, count: int) -> list[tuple[int, float]]:
    """The `count` most probable classes of one image's logits (classes,), best first, each with its probability."""
    weights = np.exp(logits - logits.max())
    probabilities = weights / weights.sum()
    return [(int(i), float(probabilities[i])) for i in np.argsort(-probabilities, kind="stable")[:count]]


def imagenet_classes() -> list[str]:
    """The 1000 names of ImageNet-1k (the first word of each WordNet synset, made distinct where two agree)."""
    return [*_lines("imagenet_classes.txt")]


def wordnet_ids(class_names: Sequence[str] | None) -> list[str] | None:
    """The WordNet ids (n01440764 ...) of a model's classes if they are ImageNet-1k's, else None."""
    ids = _lines("imagenet_wordnet_ids.txt")
    known = class_names is not None and tuple(class_names) in (_lines("imagenet_classes.txt"), ids)
    return [*ids] if known else None


@functools.cache
def _lines(asset: str) -> tuple[str, ...]:
    return tuple((importlib.resources.files("gcvit_flax") / "data" / "assets" / asset).read_text().splitlines())


def match_classes(data_names: Sequence[str], model_names: Sequence[str] | None, num_classes: int) -> np.ndarray | None:
    """The index in the model, of `num_classes`, of each of the data's classes, int (n,); None if labels are indices.

    Classes have the same name in both. For ImageNet-1k they may also be WordNet ids, or all of the numbers 0 to 999. A
    model without names takes the data's classes as its first ones.

    Raises:
      UserError: (a ValueError) a class that the model lacks.
    """
    if len(data_names) > num_classes:
        raise UserError(
            f"the data has {len(data_names)} classes and the model {num_classes}: evaluate on data of its own"
        )
    if model_names is None or [*data_names] == [*model_names]:
        return None
    indices = {name: index for index, name in enumerate(model_names)}
    ids, advice = wordnet_ids(model_names), ""
    if ids:
        indices |= {name: index for index, name in enumerate(ids)}
        advice = ", a WordNet id as n01440764, or one of all the numbers from 0 to 999"
    if ids and {*data_names} == {*map(str, range(num_classes))}:
        indices = {str(index): index for index in range(num_classes)}
    unknown = [name for name in data_names if name not in indices]
    if unknown:
        others = f" and {len(unknown) - 1} more are" if len(unknown) > 1 else " is"
        raise UserError(
            f"the data's class {unknown[0]!r}{others} not among the model's {num_classes}: expected names like "
            f"{model_names[0]!r}{advice}; rename the class, or remove it"
        )
    found = np.array([indices[name] for name in data_names])
    return None if np.array_equal(found, np.arange(num_classes)) else found


def class_index(named: str, class_names: Sequence[str]) -> int:
    """The index of the class that `named` is the name, the WordNet id or the index of.

    Raises:
      UserError: (a ValueError) no class is.
    """
    for names in (class_names, wordnet_ids(class_names) or ()):
        if named in names:
            return names.index(named)
    if named.isdecimal() and int(named) < len(class_names):
        return int(named)
    close = difflib.get_close_matches(named, class_names, 3, 0.4) or [class_names[0], class_names[-1]]
    raise UserError(
        f"the model has no class {named!r}: give an index from 0 to {len(class_names) - 1} or a name such as "
        f"{' or '.join(map(repr, close))}"
    )
