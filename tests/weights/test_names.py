import dataclasses

import jax
import numpy as np
import pytest

from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.variants import VARIANTS
from gcvit_flax.weights.matching import match, names_in
from gcvit_flax.weights.names import TABLE
from gcvit_flax.weights.tensors import shape_as_ours
from gcvit_flax.weights.tree import flatten, parameter_shapes

LARGEST = VARIANTS["gcvit_large"]  # Layer scale, and more than nine blocks at a level.


@pytest.mark.parametrize("family", ["official", "timm", "keras_io", "gcvit_tf"])
def test_names_there_and_back(family):
    ours = parameter_shapes(LARGEST)
    labels = {name: label for name, (label, _) in names_in(family, ours).items()}
    assert len(set(labels.values())) == len(ours)
    # Only the rank and the first side matter to matching.
    shapes = {label: ours[name].shape for name, label in labels.items()}
    found, unknown = match(shapes, family if family in ("official", "timm") else "keras")
    assert unknown == []
    assert {name: label for name, (label, _) in found.items()} == labels


def test_timms_names_and_shapes(files):
    """Against the list that timm itself gives."""
    lines = (files / "timm_names.txt").read_text().splitlines()
    shapes = {name: tuple(int(side) for side in sides.split("x")) for name, sides in map(str.split, lines)}
    found, unknown = match(shapes, "timm")
    assert unknown == []
    ours = {name: shape_as_ours(shapes[label], row.kind, torch=True) for name, (label, row) in found.items()}
    assert ours == {name: leaf.shape for name, leaf in parameter_shapes(VARIANTS["gcvit_xxtiny"]).items()}


def test_every_row_of_the_table_is_used():
    rows = {row for _, row in names_in("official", parameter_shapes(LARGEST)).values()}
    assert rows == set(TABLE)


def test_shapes_are_those_of_the_network():
    """Traced whole, without the shortcut."""
    config = dataclasses.replace(LARGEST, depths=(3, 4, 5, 2))
    images = jax.ShapeDtypeStruct((1, *config.image_size, 3), np.float32)
    expected = flatten(jax.eval_shape(GCViT(config).init, jax.random.key(0), images)["params"])
    assert parameter_shapes(config) == expected
