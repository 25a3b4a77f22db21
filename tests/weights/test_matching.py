import zipfile

import h5py
import pytest

from gcvit_flax.model.tree import parameter_shapes
from gcvit_flax.variants import VARIANTS
from gcvit_flax.weights.convert import convert
from gcvit_flax.weights.matching import match, names_in
from gcvit_flax.weights.model_folder import load_model


@pytest.mark.parametrize("family", ["official", "timm", "keras_io", "gcvit_tf"])
def test_names_there_and_back(family):
    ours = parameter_shapes(VARIANTS["gcvit_large"])  # Layer scale, and more than nine blocks at a level.
    labels = {name: label for name, (label, _) in names_in(family, ours).items()}
    assert len(set(labels.values())) == len(ours)
    # Only the rank and the first side matter to matching.
    shapes = {label: ours[name].shape for name, label in labels.items()}
    found, unknown = match(shapes, family if family in ("official", "timm") else "keras")
    assert unknown == []
    assert {name: label for name, (label, _) in found.items()} == labels


def _rename(source, dest, renames):
    """A copy of a .keras file with its classes renamed."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(dest, "w") as copy:
        weights = dest.with_suffix(".h5")
        weights.write_bytes(archive.read("model.weights.h5"))
        with h5py.File(weights, "a") as file:
            for old, new in renames:
                file.move(old, new)
        copy.writestr("config.json", archive.read("config.json"))
        copy.writestr("metadata.json", archive.read("metadata.json"))
        copy.write(weights, "model.weights.h5")


def test_classes_of_other_names_are_recognized_by_position_and_shape(tmp_path, files, assert_same_tree):
    levels = [("layers/level" + suffix, f"layers/my_stage{suffix}") for suffix in ("", "_1", "_2", "_3")]
    blocks = [
        (f"{level}/blocks/{old}", f"{level}/blocks/{new}")
        for _, level in levels
        for old, new in (("block", "local_block"), ("block_1", "global_block"))
    ]
    others = [
        ("layers/patch_embed", "layers/my_stem"),
        ("layers/layer_normalization", "layers/my_norm"),
        ("layers/my_stem/conv_down/conv/squeeze_and_excitation", "layers/my_stem/conv_down/conv/gate"),
    ]
    _rename(files / "micro.keras302.keras", tmp_path / "sub.keras", levels + blocks + others)
    report = convert(tmp_path / "sub.keras", tmp_path / "sub")
    assert "matched by position and shape" in str(report)
    convert(files / "micro.keras302.keras", tmp_path / "plain")
    assert_same_tree(load_model(tmp_path / "sub")[1], load_model(tmp_path / "plain")[1])


def test_levels_each_of_its_own_class_are_ordered_by_width(tmp_path, files, assert_same_tree):
    renames = [("layers/level" + old, f"layers/{new}") for old, new in zip(("", "_1", "_2", "_3"), "dbca", strict=True)]
    _rename(files / "micro.keras302.keras", tmp_path / "sub.keras", renames)
    convert(tmp_path / "sub.keras", tmp_path / "sub")
    convert(files / "micro.keras302.keras", tmp_path / "plain")
    assert_same_tree(load_model(tmp_path / "sub")[1], load_model(tmp_path / "plain")[1])
