"""Whole files that hold something other than one GCViT's finite weights."""

import pickle
import zipfile

import h5py
import numpy as np
import pytest
import safetensors.numpy

from gcvit_flax.weights.convert import convert
from gcvit_flax.weights.model_folder import load_model


def _with(tmp_path, official, **changes):
    path = tmp_path / "changed.safetensors"
    tensors = {name: changes.pop(name.replace(".", "_"), values) for name, values in official.items()}
    tensors = {name: values for name, values in tensors.items() if values is not None}
    safetensors.numpy.save_file({**tensors, **changes}, path)
    return path


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nonfinite_values(tmp_path, official, rejects, value):
    bias = official["head.bias"].copy()
    bias[3] = value
    path = _with(tmp_path, official, head_bias=bias)
    message = rejects(path)
    assert "NaN or infinity in 1 tensors: head.bias" in message and "--allow-nonfinite" in message
    report = convert(path, tmp_path / "allowed", allow_nonfinite=True)
    assert "NaN or infinity in 1 tensors: head.bias" in str(report)
    np.testing.assert_array_equal(load_model(tmp_path / "allowed")[1]["params"]["head"]["bias"], bias)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float64, np.uint8, np.bool_])
def test_a_wrong_dtype(tmp_path, official, rejects, dtype):
    message = rejects(_with(tmp_path, official, head_bias=official["head.bias"].astype(dtype)))
    assert "head.bias" in message and "expected float32, float16 or bfloat16" in message


def test_missing_unexpected_and_misshapen_tensors_are_listed(tmp_path, official, rejects):
    changes = {
        "norm_weight": None,
        "levels_0_blocks_1_attn_qkv_bias": None,
        "head_bias": official["head.bias"][:4],
        "zebra.weight": np.ones(2, np.float32),
        "aux_head.weight": np.ones(2, np.float32),
    }
    message = rejects(_with(tmp_path, official, **changes))
    assert "2 missing: levels.0.blocks.1.attn.qkv.bias, norm.weight;" in message
    assert "2 unexpected: aux_head.weight, zebra.weight;" in message
    assert "1 of another shape: head.bias (4,) instead of (10,);" in message


def test_a_missing_level(tmp_path, official, rejects):
    rest = {name: values for name, values in official.items() if not name.startswith("levels.3")}
    safetensors.numpy.save_file(rest, tmp_path / "x.safetensors")
    assert "blocks at 4 levels" in rejects(tmp_path / "x.safetensors")


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
        (b"", "no weight file that this program knows"),
        (b"hello, world", "no weight file that this program knows"),
        (pickle.dumps({"a": 1}), "bare pickle"),
        (b"PK\x05\x06" + bytes(18), "no weight file"),
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
