import numpy as np
import pytest
import torch_pickle

from gcvit_flax.model.tree import flatten
from gcvit_flax.weights.convert import convert
from gcvit_flax.weights.model_folder import load_model
from gcvit_flax.weights.wrappers import without_wrappers

WRAPPED = {
    "several devices": "module.{}",
    "torch.compile": "_orig_mod.{}",
    "Lightning": "model.{}",
    "Lightning, compiled, on several devices": "model.module._orig_mod.{}",
    "an attribute of any name": "student.backbone.{}",
}


@pytest.mark.parametrize("names", WRAPPED.values(), ids=WRAPPED.keys())
def test_wrapped_weights_are_those_inside(tmp_path, official, names):
    wrapped = {names.format(name): values for name, values in official.items()}
    hyper = torch_pickle.Call(torch_pickle.Global("argparse", "Namespace"), ())
    torch_pickle.write_state_dict(tmp_path / "x.ckpt", wrapped, hyper_parameters=hyper, epoch=3)
    report = convert(tmp_path / "x.ckpt", tmp_path / "dest")
    assert (report.family, report.tensors) == ("official", 174)
    loaded = flatten(load_model(tmp_path / "dest")[1]["params"])
    np.testing.assert_array_equal(loaded["head/kernel"], official["head.weight"].T)


def test_the_count_of_averaged_weights_is_known(tmp_path, official):
    averaged = {f"module.{name}": values for name, values in official.items()} | {"n_averaged": np.array([7])}
    torch_pickle.write_state_dict(tmp_path / "x.pth", averaged)
    assert convert(tmp_path / "x.pth", tmp_path / "dest").tensors == 174


def test_parts_that_are_compiled():
    names = ["stem.conv1.weight", "stages.0._orig_mod.blocks.0._orig_mod.norm1.weight"]
    assert [*without_wrappers(dict.fromkeys(names))] == ["stem.conv1.weight", "stages.0.blocks.0.norm1.weight"]


def test_what_is_not_of_the_network_is_named(tmp_path, official, rejects):
    wrapped = {f"model.{name}": values for name, values in official.items()}
    torch_pickle.write_state_dict(tmp_path / "x.ckpt", wrapped | {"loss.weight": np.ones(10, np.float32)})
    assert "1 unexpected: loss.weight" in rejects(tmp_path / "x.ckpt")


def test_two_networks_in_one_file(tmp_path, official, rejects):
    both = {f"{who}.{name}": values for who in ("student", "teacher") for name, values in official.items()}
    torch_pickle.write_state_dict(tmp_path / "x.ckpt", both)
    assert "looks like" in rejects(tmp_path / "x.ckpt")
