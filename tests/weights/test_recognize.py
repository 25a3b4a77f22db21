"""Files whose names are not quite those of the programs themselves."""

import re
import shutil
import zipfile

import h5py
import numpy as np
import safetensors.numpy

from gcvit_flax.weights.convert import convert
from gcvit_flax.weights.model_folder import load_model
from gcvit_flax.weights.write import write_weights


def _rename(source, dest, renames):
    """A copy of a .keras file with its classes called otherwise."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(dest, "w") as copy:
        weights = dest.with_suffix(".h5")
        weights.write_bytes(archive.read("model.weights.h5"))
        with h5py.File(weights, "a") as file:
            for old, new in renames:
                file.move(old, new)
        copy.writestr("config.json", archive.read("config.json"))
        copy.writestr("metadata.json", archive.read("metadata.json"))
        copy.write(weights, "model.weights.h5")


def test_classes_of_other_names_are_told_by_position_and_shape(tmp_path, files, assert_same_tree):
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


def test_a_network_inside_another_model_with_its_optimizer(tmp_path, files, assert_same_tree):
    shutil.copy(files / "micro.gcvit_tf.weights.h5", tmp_path / "w.weights.h5")
    with h5py.File(tmp_path / "w.weights.h5", "a") as file:
        for name in list(file):
            file.copy(name, f"layers2/gc_vi_t/{name}")
            del file[name]
        file.move("layers2", "layers")
        file["optimizer/vars/0"] = np.int64(3)
        file["layers/gc_vi_t/optimizer/vars/1"] = np.zeros((8, 8), np.float32)
    report = convert(tmp_path / "w.weights.h5", tmp_path / "w")
    assert report.skipped == 2
    convert(files / "micro.gcvit_tf.weights.h5", tmp_path / "plain")
    assert_same_tree(load_model(tmp_path / "w")[1], load_model(tmp_path / "plain")[1])


def test_keras_2_names_with_slashes(tmp_path, files, assert_same_tree):
    source = files / "micro.gcvit_tf_keras2.h5"
    with h5py.File(source) as old, h5py.File(tmp_path / "slashes.h5", "w") as new:
        new.attrs["layer_names"] = old.attrs["layer_names"]

        def copy(name, item):
            if hasattr(item, "shape"):
                new["model_weights/" + _slashes(name)] = item[()]

        old.visititems(copy)
        new["optimizer_weights/Adam/m/head/kernel:0"] = np.zeros(3, np.float32)
    assert convert(tmp_path / "slashes.h5", tmp_path / "slashes").skipped == 1
    convert(source, tmp_path / "plain")
    assert_same_tree(load_model(tmp_path / "slashes")[1], load_model(tmp_path / "plain")[1])


def _slashes(name):
    return re.sub(r"(levels|blocks|to_q_global|conv|fc)_(\d)", r"\1/\2", name)


def test_prefixes_of_data_parallel_training(tmp_path, files, assert_same_tree):
    convert(files / "micro.nvlabs.pth.tar", tmp_path / "plain")
    write_weights(tmp_path / "plain", tmp_path / "plain.safetensors", "official")
    tensors = safetensors.numpy.load_file(tmp_path / "plain.safetensors")
    prefixed = {f"module.{name}": values for name, values in tensors.items()}
    safetensors.numpy.save_file(prefixed, tmp_path / "module.safetensors")
    convert(tmp_path / "module.safetensors", tmp_path / "module")
    assert_same_tree(load_model(tmp_path / "module")[1], load_model(tmp_path / "plain")[1])
