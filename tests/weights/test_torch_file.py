"""Damaged and forged PyTorch files: one sentence, exit status 1, nothing run, nothing written."""

import tracemalloc
import zipfile

import numpy as np
import pytest
import torch_pickle
from torch_pickle import Call, Global

from gcvit_flax.model.tree import flatten
from gcvit_flax.weights.convert import convert
from gcvit_flax.weights.model_folder import load_model


@pytest.mark.parametrize(
    "call",
    [
        Call(Global("os", "system"), ("touch {}",)),
        Call(Global("posix", "system"), ("touch {}",)),
        Call(Global("subprocess", "check_call"), (["touch", "{}"],)),
        Call(Global("builtins", "eval"), ("__import__('os').system('touch {}')",)),
        Call(Global("__builtin__", "exec"), ("__import__('os').system('touch {}')",)),
    ],
)
def test_a_pickle_that_runs_a_program(tmp_path, official, rejects, call):
    marker = tmp_path / "ran"
    arguments = tuple(
        [part.format(marker) for part in argument] if isinstance(argument, list) else argument.format(marker)
        for argument in call.arguments
    )
    call = Call(call.function, arguments)
    torch_pickle.write(tmp_path / "alone.pth", call, {})
    torch_pickle.write_state_dict(tmp_path / "beside.pth", official, optimizer=call)
    for name in ("alone.pth", "beside.pth"):
        assert f"tries to call {call.function.module}.{call.function.name}" in rejects(tmp_path / name)
    assert not marker.exists()


def test_other_classes_in_a_pickle_are_inert(tmp_path, official):
    unknown = Call(Global("timm.scheduler", "CosineLRScheduler"), (1, [2]))
    scalar = Call(
        Global("numpy.core.multiarray", "scalar"), (Call(Global("numpy", "dtype"), ("f8", False, True)), b"x")
    )
    launch = Call(Global("webbrowser", "open"), (f"file://{tmp_path}/ran",))
    torch_pickle.write_state_dict(tmp_path / "x.pth", official, args=unknown, metric=scalar, harmless=launch)
    report = convert(tmp_path / "x.pth", tmp_path / "dest")
    assert report.tensors == 174
    loaded = flatten(load_model(tmp_path / "dest")[1]["params"])
    np.testing.assert_array_equal(loaded["head/kernel"], official["head.weight"].T)


def test_a_damaged_pickle(tmp_path, rejects):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00X\xff\xff")
    assert "damaged pickle" in rejects(tmp_path / "x.pth")


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {"state_dict": {"a": 1}}, None])
def test_a_pickle_without_weights(tmp_path, rejects, content):
    torch_pickle.write(tmp_path / "x.pth", content, {})
    assert "holds no weights" in rejects(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("shape", "strides"), [((1 << 20, 1 << 20), (1 << 20, 1)), ((10, 64), (64, 2)), ((-1, 64), (64, 1))]
)
def test_torch_shapes_that_the_storage_does_not_hold(tmp_path, official, rejects, shape, strides):
    keys = {name: str(index) for index, name in enumerate(official)}
    state = {name: torch_pickle.tensor(values, keys[name]) for name, values in official.items()}
    state["head.weight"] = torch_pickle.tensor(official["head.weight"], keys["head.weight"], shape, strides)
    storages = {keys[name]: values for name, values in official.items()}
    torch_pickle.write(tmp_path / "x.pth", {"state_dict": state}, storages)
    message = rejects(tmp_path / "x.pth")
    assert any(part in message for part in ("declares", "too short", "damaged pickle"))


def test_a_missing_storage(tmp_path, official, rejects):
    keys = {name: str(index) for index, name in enumerate(official)}
    state = {name: torch_pickle.tensor(values, keys[name]) for name, values in official.items()}
    storages = {keys[name]: values for name, values in official.items() if name != "head.weight"}
    torch_pickle.write(tmp_path / "x.pth", state, storages)
    assert f"archive/data/{keys['head.weight']} cannot be read" in rejects(tmp_path / "x.pth")


def test_a_tensor_instead_of_a_storage(tmp_path, official, rejects):
    keys = {name: str(index) for index, name in enumerate(official)}
    state = {name: torch_pickle.tensor(values, keys[name]) for name, values in official.items()}
    inner = state["head.weight"]
    state["head.weight"] = Call(inner.function, (inner, *inner.arguments[1:]))
    torch_pickle.write(
        tmp_path / "x.pth", {"state_dict": state}, {keys[name]: values for name, values in official.items()}
    )
    assert "damaged pickle (a tensor in a Tensor instead of a storage)" in rejects(tmp_path / "x.pth")


@pytest.mark.parametrize("shape", [(1,) * 70, (0, 2**62, 2**62)], ids=["seventy axes", "no values"])
def test_shapes_that_no_array_can_have(tmp_path, official, rejects, shape):
    keys = {name: str(index) for index, name in enumerate(official)}
    state = {name: torch_pickle.tensor(values, keys[name]) for name, values in official.items()}
    state["norm.weight"] = torch_pickle.tensor(official["norm.weight"], keys["norm.weight"], shape, (1,) * len(shape))
    torch_pickle.write(
        tmp_path / "x.pth", {"state_dict": state}, {keys[name]: values for name, values in official.items()}
    )
    message = rejects(tmp_path / "x.pth")
    assert "norm.weight (1, 1, 1, 1" in message or "declares" in message


def test_a_small_pickle_that_asks_for_much_memory(tmp_path, rejects):
    """Its one value is to be remembered under a number for which pickle's C code makes a table of 256 MB."""
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02Nr" + (2**24).to_bytes(4, "little") + b".")
    tracemalloc.start()
    try:
        assert "holds no weights" in rejects(tmp_path / "x.pth")
        assert tracemalloc.get_traced_memory()[1] < 1e8
    finally:
        tracemalloc.stop()
