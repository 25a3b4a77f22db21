import pickle
import zipfile

import h5py
import numpy as np
import pytest
import safetensors.numpy

from gcvit_flax.errors import UserError
from gcvit_flax.weights.convert import convert
from gcvit_flax.weights.model_folder import load_model
from gcvit_flax.weights.write import write_weights


def test_a_file_that_vanishes_before_it_is_opened(tmp_path, monkeypatch):
    source = tmp_path / "x.keras"
    source.touch()

    def is_file(path):
        path.unlink()
        return True

    with monkeypatch.context() as patch:
        patch.setattr(type(source), "is_file", is_file)
        with pytest.raises(UserError, match=r"x\.keras cannot be read \(No such file or directory\)"):
            convert(source, tmp_path / "m")


def test_prefixes_of_data_parallel_training(tmp_path, files, assert_same_tree):
    convert(files / "micro.nvlabs.pth.tar", tmp_path / "plain")
    write_weights(tmp_path / "plain", tmp_path / "plain.safetensors", "official")
    tensors = safetensors.numpy.load_file(tmp_path / "plain.safetensors")
    prefixed = {f"module.{name}": values for name, values in tensors.items()}
    safetensors.numpy.save_file(prefixed, tmp_path / "module.safetensors")
    convert(tmp_path / "module.safetensors", tmp_path / "module")
    assert_same_tree(load_model(tmp_path / "module")[1], load_model(tmp_path / "plain")[1])


@pytest.mark.parametrize(
    ("names", "looks"),
    [
        (["conv1.weight", "layer1.0.conv1.weight", "fc.weight"], "a ResNet"),
        (["cls_token", "blocks.0.attn.qkv.weight"], "a Vision Transformer"),
        (["layers.0.blocks.0.attn.relative_position_bias_table"], "a Swin Transformer"),
        (["encoder.thing"], "another network: its 1 tensors are encoder.thing"),
    ],
)
def test_another_networks_weights(tmp_path, rejects, names, looks):
    safetensors.numpy.save_file({name: np.ones(2, np.float32) for name in names}, tmp_path / "x.safetensors")
    assert f"looks like {looks}" in rejects(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not a weight file that this program recognizes"),
        (b"hello, world", "not a weight file that this program recognizes"),
        (pickle.dumps({"a": 1}), "bare pickle"),
        (b"PK\x05\x06" + bytes(18), "not a weight file"),
    ],
)
def test_what_is_no_weight_file(tmp_path, rejects, content, problem):
    (tmp_path / "x.pth").write_bytes(content)
    assert problem in rejects(tmp_path / "x.pth")


def test_other_archives_and_paths(tmp_path, rejects):
    with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
        archive.writestr("notes.txt", "hello")
    assert "zip archive without weights" in rejects(tmp_path / "x.keras")
    assert "is not there" in rejects(tmp_path / "absent.keras")
    assert "is a folder" in rejects(tmp_path)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a"] = np.ones(3)
    assert "looks like another network" in rejects(tmp_path / "x.h5")
