import numpy as np
import pytest

from gcvit_flax.data.sources import SPLIT_SEED, ListSource, hold_out
from gcvit_flax.errors import UserError


def test_each_class_gives_its_share_at_random_whatever_the_order():
    labels = np.random.default_rng(1).integers(0, 3, 200)
    data = hold_out(ListSource(labels, labels, [str(i) for i in range(200)]), labels, ("a", "b", "c"), 0.2)
    rng = np.random.default_rng(SPLIT_SEED)
    held_out = set()
    for label in range(3):
        members = np.flatnonzero(labels == label)
        held_out |= {*rng.permutation(members)[: round(0.2 * len(members))].tolist()}
    names = [[int(source[index][2]) for index in range(len(source))] for source in (data.train, data.validation)]
    assert names == [sorted({*range(200)} - held_out), sorted(held_out)]
    assert [data.validation[index][1] for index in range(len(held_out))] == labels[names[1]].tolist()


def test_a_class_with_too_few_examples_is_named():
    labels = np.array([0, 0, 1, 2, 2])
    with pytest.raises(UserError, match="class 'b' has one image"):
        hold_out(ListSource(labels, labels, [""] * 5), labels, ("a", "b", "c"), 0.5)
