import io
import json
import pickletools
import zipfile

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch_pickle

from gcvit_flax.config import GCViTConfig
from gcvit_flax.errors import UserError
from gcvit_flax.model.gcvit import create_model
from gcvit_flax.weights.convert import convert
from gcvit_flax.weights.model_folder import load_model, save_model
from gcvit_flax.weights.recognize import open_weight_file
from gcvit_flax.weights.torch_file import open_torch
from gcvit_flax.weights.write import write_weights

# 32 is the smallest embed_dim for which timm does not round the widths of squeeze-and-excitation.
TIMM = GCViTConfig(
    image_size=32, window_size=(1, 1, 2, 1), embed_dim=32, depths=(1, 2, 1, 1), num_heads=(1, 2, 2, 4), num_classes=3
)
TARGETS = {
    "keras_io": (".keras", ".weights.h5"),
    "gcvit_tf": (".keras", ".weights.h5"),
    "official": (".safetensors", ".pth", ".pth.tar"),
    "timm": (".safetensors", ".pth"),
}


def weights_of(path):
    if path.suffix != ".keras":
        return path
    with zipfile.ZipFile(path) as archive:
        return io.BytesIO(archive.read("model.weights.h5"))


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("micro.keras302.keras", "keras_io"),
        ("micro.gcvit_tf.weights.h5", "gcvit_tf"),
        ("micro_ls.keras302.keras", "keras_io"),
        ("micro_ls.gcvit_tf.keras", "gcvit_tf"),
    ],
)
def test_keras_datasets_come_back_as_they_were(tmp_path, files, h5_datasets, name, target):
    convert(files / name, tmp_path / "m")
    expected = h5_datasets(weights_of(files / name))
    for suffix in TARGETS[target]:
        write_weights(tmp_path / "m", tmp_path / f"out{suffix}", target)
        assert h5_datasets(weights_of(tmp_path / f"out{suffix}")) == expected


def test_official_tensors_come_back_as_they_were(tmp_path, files):
    """The index buffers included, which PyTorch's strict loading expects."""
    convert(files / "micro.nvlabs.pth.tar", tmp_path / "m")
    write_weights(tmp_path / "m", tmp_path / "out.safetensors", "official")
    written = safetensors.numpy.load_file(tmp_path / "out.safetensors")
    torch_pickle.write_state_dict(tmp_path / "again.pth", written)
    with open_weight_file(files / "micro.nvlabs.pth.tar") as first, open_weight_file(tmp_path / "again.pth") as again:
        assert again.skipped == first.skipped and len(first.skipped) == 8
        assert again.tensors.keys() == first.tensors.keys()
        for name, tensor in first.tensors.items():
            expected, actual = tensor.read(), again.tensors[name].read()
            assert actual.dtype == expected.dtype
            np.testing.assert_array_equal(actual, expected)


def test_index_buffers_are_the_official_ones(tmp_path, files):
    convert(files / "micro.nvlabs.pth.tar", tmp_path / "m")
    write_weights(tmp_path / "m", tmp_path / "out.safetensors", "official")
    written = safetensors.numpy.load_file(tmp_path / "out.safetensors")
    with open_torch(files / "micro.nvlabs.pth.tar", ema=False) as tensors:
        assert written.keys() == tensors.keys()
        for name in written:
            if name.endswith("relative_position_index"):
                assert written[name].dtype == np.int64
                np.testing.assert_array_equal(written[name], tensors[name].read())


@pytest.mark.parametrize("in_channels", [3, 5])
@pytest.mark.parametrize(("target", "suffix"), [(target, suffix) for target in TARGETS for suffix in TARGETS[target]])
def test_out_and_in_again_is_bit_identical(tmp_path, make_variables, assert_same_tree, target, suffix, in_channels):
    model = create_model(TIMM, layer_scale=1e-5, in_channels=in_channels)
    variables = make_variables(model.config)
    save_model(tmp_path / "m", model, variables)
    report = write_weights(tmp_path / "m", tmp_path / f"out{suffix}", target)
    assert ("its logits will differ" in report) == (target in ("keras_io", "gcvit_tf"))
    convert(tmp_path / f"out{suffix}", tmp_path / "again")
    again, loaded = load_model(tmp_path / "again")
    assert again.config == model.config
    assert_same_tree(loaded, variables)


def test_the_license_is_written(tmp_path, make_variables):
    save_model(tmp_path / "m", create_model(TIMM), make_variables(TIMM), weights_licence="CC-BY-NC-SA-4.0")
    write_weights(tmp_path / "m", tmp_path / "x.safetensors", "timm")
    with safetensors.safe_open(tmp_path / "x.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt", "licence": "CC-BY-NC-SA-4.0"}
    write_weights(tmp_path / "m", tmp_path / "x.pth", "timm")
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        assert archive.read("archive/extra/license") == b"CC-BY-NC-SA-4.0"


def test_a_torch_file_holds_what_the_safetensors_file_holds(tmp_path, files):
    convert(files / "micro.nvlabs.pth.tar", tmp_path / "m")
    for suffix in (".safetensors", ".pth"):
        write_weights(tmp_path / "m", tmp_path / f"x{suffix}", "official")
    expected = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    with open_torch(tmp_path / "x.pth", ema=False) as tensors:
        assert tensors.keys() == expected.keys()
        for name, tensor in tensors.items():
            assert tensor.dtype == expected[name].dtype
            np.testing.assert_array_equal(tensor.read(), expected[name])


def test_a_torch_file_needs_no_more_than_weights_only_allows(tmp_path, make_variables):
    """By the documented rules of torch.load(weights_only=True); `make test-timm` calls it."""
    save_model(tmp_path / "m", create_model(TIMM), make_variables(TIMM))
    write_weights(tmp_path / "m", tmp_path / "x.pth", "official")
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
        operations = [*pickletools.genops(archive.read("archive/data.pkl"))]
    assert {argument for operation, argument, _ in operations if operation.name == "GLOBAL"} == {
        "torch FloatStorage",
        "torch LongStorage",
        "torch._utils _rebuild_tensor_v2",
        "collections OrderedDict",
    }
    assert {operation.name for operation, *_ in operations} <= {
        *("PROTO", "EMPTY_DICT", "MARK", "SETITEMS", "STOP", "BINUNICODE", "BININT", "TUPLE"),
        *("GLOBAL", "BINPERSID", "REDUCE", "NEWFALSE"),
    }


def test_keras_gets_a_config_that_builds_the_same_network(tmp_path, files):
    """The same as the package gcvit wrote, except for the name and the batch size."""
    convert(files / "micro_ls.gcvit_tf.keras", tmp_path / "m")
    write_weights(tmp_path / "m", tmp_path / "x.keras", "gcvit_tf")

    def config_of(path):
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("config.json"))

    written, original = config_of(tmp_path / "x.keras"), config_of(files / "micro_ls.gcvit_tf.keras")
    for key in ("module", "class_name", "registered_name"):
        assert written[key] == original[key]
    assert written["build_config"]["input_shape"][1:] == original["build_config"]["input_shape"][1:]
    defaults = {"trainable": True, "resize_query": False, "global_pool": "avg"}
    ignored = ("name", "dtype")
    expected = {key: value for key, value in original["config"].items() if key not in ignored}
    assert defaults | {key: value for key, value in written["config"].items() if key not in ignored} == expected


@pytest.mark.parametrize(
    ("fields", "targets", "problem"),
    [
        ({"image_size": 32, "window_size": (4, 4, 2, 1)}, TARGETS, r"query stages \(1, 0, 0, 0\)"),
        ({"image_size": (32, 64), "window_size": None}, TARGETS, "square"),
        ({"reference": "keras_io"}, ("gcvit_tf", "official", "timm"), "flattened position bias"),
        ({"qk_scale": 0.3}, ("timm",), "qk_scale"),
        ({"num_classes": 0}, ("keras_io", "gcvit_tf"), "no head"),
        ({"embed_dim": 40}, ("timm",), "multiples of 8"),
    ],
)
def test_what_a_target_cannot_express_is_refused(tmp_path, make_variables, fields, targets, problem):
    model = create_model(TIMM, **fields)
    save_model(tmp_path / "m", model, make_variables(model.config))
    for target in targets:
        with pytest.raises(UserError, match=problem):
            write_weights(tmp_path / "m", tmp_path / f"x{TARGETS[target][0]}", target)
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]


def test_dest_is_whole_or_absent(tmp_path, make_variables, monkeypatch):
    save_model(tmp_path / "m", create_model(TIMM), make_variables(TIMM))
    with pytest.raises(UserError, match=r"\.keras or \.weights\.h5"):
        write_weights(tmp_path / "m", tmp_path / "x.safetensors", "keras_io")
    write_weights(tmp_path / "m", tmp_path / "x.keras", "keras_io")
    before = (tmp_path / "x.keras").read_bytes()
    with pytest.raises(UserError, match="--force"):
        write_weights(tmp_path / "m", tmp_path / "x.keras", "keras_io")

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(zipfile.ZipFile, "write", fail)
    with pytest.raises(OSError, match="disk full"):
        write_weights(tmp_path / "m", tmp_path / "x.keras", "keras_io", force=True)
    assert (tmp_path / "x.keras").read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["m", "x.keras"]
