"""Random networks out to every format and in again."""

import dataclasses

import safetensors.numpy
import torch_pickle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gcvit_flax.config import GCViTConfig
from gcvit_flax.model.gcvit import create_model
from gcvit_flax.weights.model_folder import save_model
from gcvit_flax.weights.read import read_config, read_parameters
from gcvit_flax.weights.recognize import open_weight_file
from gcvit_flax.weights.tree import unflatten
from gcvit_flax.weights.write import write_weights

EVERY_TARGET = (
    ("keras_io", ".keras"),
    ("keras_io", ".weights.h5"),
    ("gcvit_tf", ".keras"),
    ("gcvit_tf", ".weights.h5"),
    ("official", ".safetensors"),
    ("timm", ".safetensors"),
)


@st.composite
def configurations(draw):
    """Small networks that every format can express; for timm the widths come in steps of 32."""
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
        # Only a ratio that gives the same widths can be seen in the weights.
        assert dataclasses.replace(found, mlp_ratio=config.mlp_ratio) == config
