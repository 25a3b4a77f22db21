import dataclasses

import numpy as np
import pytest
import safetensors.numpy
import torch_pickle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gcvit_flax.config import GCViTConfig
from gcvit_flax.model.gcvit import create_model
from gcvit_flax.model.tree import unflatten
from gcvit_flax.weights.convert import convert
from gcvit_flax.weights.model_folder import load_model, save_model
from gcvit_flax.weights.read import read_config, read_parameters
from gcvit_flax.weights.recognize import open_weight_file
from gcvit_flax.weights.write import write_weights

EVERY_TARGET = (
    ("keras_io", ".keras"),
    ("keras_io", ".weights.h5"),
    ("gcvit_tf", ".keras"),
    ("gcvit_tf", ".weights.h5"),
    ("official", ".safetensors"),
    ("timm", ".safetensors"),
)


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


@st.composite
def configurations(draw):
    """Small networks that every format can express; timm needs widths in steps of 32."""
    side = draw(st.integers(1, 2))
    num_heads = [draw(st.sampled_from([1, 2, 4])) for _ in range(4)]
    return GCViTConfig(
        image_size=32 * side,
        embed_dim=draw(st.sampled_from([4, 12, 32])),
        depths=[draw(st.integers(1, 2)) for _ in range(4)],
        num_heads=num_heads,
        mlp_ratio=draw(st.one_of(st.sampled_from([1.0, 2.0, 3.0]), st.floats(0.3, 2.5))),
        qkv_bias=draw(st.booleans()),
        layer_scale=draw(st.sampled_from([None, 1e-5])),
        num_classes=draw(st.integers(1, 9)),
    )


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(config=configurations(), seed=st.integers(0, 100))
def test_any_configuration_survives_every_format(tmp_path_factory, make_variables, assert_same_tree, config, seed):
    folder = tmp_path_factory.mktemp("any")
    variables = make_variables(config, seed)
    save_model(folder / "m", create_model(config), variables)
    for target, suffix in EVERY_TARGET:
        if target == "timm" and config.embed_dim % 32:
            continue
        path = folder / f"{target}{suffix}"
        write_weights(folder / "m", path, target)
        if target == "official":  # The same state dict in PyTorch's own container.
            path = folder / "official.pth"
            torch_pickle.write_state_dict(path, safetensors.numpy.load_file(folder / "official.safetensors"))
        with open_weight_file(path) as source:
            found, names = read_config(source, path, None)
            flat, _ = read_parameters(source, path, names, allow_nonfinite=False)
        assert_same_tree(unflatten(flat), variables["params"])
        # The weights only show a ratio that gives the same widths.
        assert dataclasses.replace(found, mlp_ratio=config.mlp_ratio) == config
