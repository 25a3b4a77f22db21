import numpy as np
import pytest

from gcvit_flax.errors import UserError
from gcvit_flax.features import probes
from gcvit_flax.features.labeled import LabeledFeatures


def test_a_fifth_of_every_class_is_held_out_by_the_seed():
    labels = np.repeat([0, 1, 3, 4], [50, 10, 3, 1])[np.random.default_rng(0).permutation(64)]  # No class 2.
    masks = [probes.held_out_mask(labels, seed) for seed in (0, 0, 1)]
    for mask in masks:
        assert [int(mask[labels == label].sum()) for label in (0, 1, 3, 4)] == [10, 2, 1, 0]
    assert (masks[0] == masks[1]).all() and (masks[0] != masks[2]).any()
    assert any(np.diff(np.flatnonzero(masks[0])) > 8), "the first of each class would be held out"
    with pytest.raises(UserError, match="3 training images of 3 classes are too few"):
        probes.held_out_mask(np.arange(3), 0)


def test_settings_are_chosen_on_held_out_images_and_then_all_are_used(monkeypatch):
    train = LabeledFeatures(np.arange(20, dtype=np.float32)[:, None], np.repeat([0, 1], 10))
    validation = LabeledFeatures(np.zeros((4, 1), np.float32), np.zeros(4, int))
    scores = {1: 0.5, 5: 0.75, 10: 0.75}
    calls = []

    def classifier(fitted, rated, settings, num_classes):
        assert num_classes == 2
        calls.append((sorted(fitted.values.ravel()), sorted(rated.values.ravel()), [*settings]))
        return {setting: scores.get(setting, 0.25) for setting in settings}

    monkeypatch.setattr(probes, "nearest_neighbors_top1", classifier)
    monkeypatch.setattr(probes, "linear_probe_top1", classifier)
    results = probes.rate_features(train, validation, 2, seed=3)
    (fitted, held_out, tried), (everything, rated, chosen), (_, _, strengths), (*_, strongest) = calls
    assert tried == [1, 5, 10], "16 images have no 20 neighbors"
    assert chosen == [5] and everything == [*range(20)] and rated == [0] * 4
    assert len(held_out) == 4 and sorted(fitted + held_out) == [*range(20)]
    assert strengths == sorted(strengths, reverse=True) and strongest == [10.0]
    assert results["nearest_neighbors"] == {"top1": 0.75, "k": 5, "held_out_top1": scores}
    assert (results["linear"]["l2"], results["held_out_count"]) == (10.0, 4)
