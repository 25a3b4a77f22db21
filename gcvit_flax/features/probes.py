"""How well classifiers of frozen features do: settings are chosen on held-out training images, then all are used."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gcvit_flax.data.sources import split_by_class
from gcvit_flax.errors import UserError
from gcvit_flax.features.labeled import LabeledFeatures
from gcvit_flax.features.linear_probe import linear_probe_top1
from gcvit_flax.features.nearest_neighbors import nearest_neighbors_top1

_HELD_OUT = 0.2
_NEIGHBORS = (1, 5, 10, 20, 50, 100, 200)
# Strong ones first, as `linear_probe_top1` wants them: 10, 3.2, 1 ... 1e-6.
_REGULARIZATIONS = tuple(float(f"{10.0**exponent:.2g}") for exponent in np.arange(1, -6.5, -0.5))

_Classifier = Callable[[LabeledFeatures, LabeledFeatures, Sequence[Any], int], dict[Any, float]]


def rate_features(train: LabeledFeatures, validation: LabeledFeatures, num_classes: int, seed: int) -> dict[str, Any]:
    """Top-1 accuracies (0..1) on `validation` of nearest neighbors and a linear probe, with the settings chosen.

    {"nearest_neighbors": {"top1", "k", "held_out_top1": {k: top-1}}, "linear": {"top1", "l2", "held_out_top1"},
    "held_out_count"}; `seed` draws the held-out part of `train`. Of settings that are equally good the lowest k and the
    strongest L2 are chosen.

    Raises:
      UserError: (a ValueError) too few training images.
    """
    held_out = held_out_mask(train.labels, seed)
    fitted, chosen_on = train.select(~held_out), train.select(held_out)

    def rate(classifier: _Classifier, name: str, settings: Sequence[Any]) -> dict[str, Any]:
        tried = classifier(fitted, chosen_on, settings, num_classes)
        best = max(settings, key=lambda setting: tried[setting])
        top1 = classifier(train, validation, [best], num_classes)[best]
        return {"top1": top1, name: best, "held_out_top1": tried}

    return {
        "nearest_neighbors": rate(nearest_neighbors_top1, "k", [k for k in _NEIGHBORS if k <= len(fitted)]),
        "linear": rate(linear_probe_top1, "l2", _REGULARIZATIONS),
        "held_out_count": len(chosen_on),
    }


def held_out_mask(labels: np.ndarray, seed: int) -> np.ndarray:
    """Marks a random fifth of every class of `labels` (n,), at least one image and never all: bool (n,).

    Raises:
      UserError: (a ValueError) no class has two images.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    mask = np.zeros(len(labels), bool)
    for members in split_by_class(labels[order], labels.max() + 1):  # At random within each class.
        wanted = min(max(1, round(_HELD_OUT * len(members))), len(members) - 1)
        mask[order[members[: max(0, wanted)]]] = True
    if not mask.any():
        raise UserError(
            f"{len(labels)} training images of {len(np.unique(labels))} classes are too few, expected a class with two "
            "of them, one to fit and one to choose settings on: add some"
        )
    return mask
