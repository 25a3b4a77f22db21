from gcvit_flax.model.tree import parameter_shapes
from gcvit_flax.variants import VARIANTS
from gcvit_flax.weights.matching import match, names_in
from gcvit_flax.weights.names import TABLE
from gcvit_flax.weights.tensors import shape_as_ours


def test_timms_names_and_shapes(files):
    """Compared with the list that timm prints."""
    lines = (files / "timm_names.txt").read_text().splitlines()
    shapes = {name: tuple(int(side) for side in sides.split("x")) for name, sides in map(str.split, lines)}
    found, unknown = match(shapes, "timm")
    assert unknown == []
    ours = {name: shape_as_ours(shapes[label], row.kind, torch=True) for name, (label, row) in found.items()}
    assert ours == {name: leaf.shape for name, leaf in parameter_shapes(VARIANTS["gcvit_xxtiny"]).items()}


def test_every_row_of_the_table_is_used():
    rows = {row for _, row in names_in("official", parameter_shapes(VARIANTS["gcvit_large"])).values()}
    assert rows == set(TABLE)
