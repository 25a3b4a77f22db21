"""Exported programs run without the package and give the model's logits, or are not written."""

import functools
import json
import re
import shutil
import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from small import TINY, full_disk

import gcvit_flax
from gcvit_flax import export, export_stablehlo
from gcvit_flax.cli import run_cli
from gcvit_flax.errors import UserError
from gcvit_flax.export_stablehlo import export_model
from gcvit_flax.model import position_bias

NAMES = ["cat", "dog", "eel"]


@pytest.fixture(scope="module")
def padded(tmp_path_factory):
    """A model folder, its model, variables and images; the maps are not whole windows at any level."""
    model = gcvit_flax.create_model(TINY, pad_to_windows=True, image_size=(40, 36))
    rng = np.random.default_rng(0)
    params = gcvit_flax.init_params(model, jax.random.key(0))
    params = jax.tree.map(lambda x: x + rng.normal(0, 0.3, x.shape).astype(x.dtype), params)
    folder = tmp_path_factory.mktemp("models") / "padded"
    gcvit_flax.save_model(folder, model, {"params": params}, class_names=NAMES, weights_licence="CC0-1.0")
    images = rng.normal(size=(2, 40, 36, 3)).astype(np.float32)
    return folder, model, {"params": params}, images


def names_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def zeros_for(*platforms: str) -> jax.export.Exported:
    """A program of the right shapes that is quick to compile and returns zeros."""
    zeros = jax.jit(lambda images: 0 * images[:, :3, 0, 0])
    return jax.export.export(zeros, platforms=platforms)(jax.ShapeDtypeStruct((2, 40, 36, 3), jnp.float32))


def read(out) -> tuple[jax.export.Exported, dict]:
    assert names_in(out) == ["config.json", "model.stablehlo"]
    program = jax.export.deserialize(bytearray((out / "model.stablehlo").read_bytes()))
    return program, json.loads((out / "config.json").read_text())


@pytest.fixture(scope="module")
def exported(padded, tmp_path_factory):
    """The folder and the report of an export with default options."""
    out = tmp_path_factory.mktemp("exports") / "new" / "any"
    return out, export_model(padded[0], out)


def test_a_program_for_any_batch_gives_the_models_logits(padded, exported):
    _, model, variables, images = padded
    out, report = exported
    assert "batch dynamic, for cpu, cuda, tpu\nchecked in a fresh process, batch 1 and 3: logits differ by" in report
    assert names_in(out.parent) == ["any"]

    program, folder_config = read(out)
    expected = jax.jit(model.apply)(variables, images)
    assert np.abs(program.call(images) - expected).max() <= 1e-5 * np.abs(expected).max()
    assert np.abs(expected[0] - expected[1]).max() > 1e-2 * np.abs(expected).max()

    assert folder_config["input"]["shape"] == ["batch", 40, 36, 3] and folder_config["input"]["dtype"] == "float32"
    assert folder_config["output"] == {"name": "logits", "shape": ["batch", 3], "dtype": "float32"}
    assert folder_config["platforms"] == list(program.platforms) == ["cpu", "cuda", "tpu"]
    assert folder_config["calling_convention_version"] == program.calling_convention_version
    assert (folder_config["class_names"], folder_config["weights_licence"]) == (NAMES, "CC0-1.0")
    assert folder_config["parameter_count"] == sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert gcvit_flax.Preprocessing(**folder_config["preprocessing"]) == model.preprocessing


def test_only_a_checked_program_replaces_an_earlier_export(padded, exported, tmp_path, monkeypatch):
    folder, out = padded[0], tmp_path / "out"
    shutil.copytree(exported[0], out)
    (out / "notes.txt").touch()
    monkeypatch.setattr(position_bias, "MOST_EXPANDED_BYTES", 0)  # So that the program has tables.
    report = export_model(folder, out, 2, ["cpu"], "bfloat16")
    assert "bfloat16, batch 2, for cpu\nchecked in a fresh process, batch 2: logits differ by" in report
    assert names_in(tmp_path) == ["out"]
    program, folder_config = read(out)
    assert folder_config["input"]["shape"] == [2, 40, 36, 3] and folder_config["compute_dtype"] == "bfloat16"
    # The first level's tables, (49, 1), are where no compiler looks for constants.
    assert len(re.findall(r"optimization_barrier %\w+ : tensor<49x1xf32>", program.mlir_module())) == TINY.depths[0]
    assert "bf16" in program.mlir_module() and program.out_avals[0].dtype == jnp.float32

    for platform, message in (("cpu", "differ from the model's by 1.0e"), ("tpu", "does not run in a fresh process")):
        monkeypatch.setattr(export_stablehlo, "_export", lambda *_, platform=platform: zeros_for(platform))
        with pytest.raises(UserError, match=message):
            export_model(folder, out, 2, ["cpu"])
        assert names_in(tmp_path) == ["out"] and read(out)[1] == folder_config


def test_without_the_cpu_nothing_is_checked(padded, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export_stablehlo, "_export", lambda *arguments: zeros_for(*arguments[-1]))
    export.main([str(padded[0]), str(tmp_path / "out"), "--batch", "2", "--platforms", "cuda, rocm"])
    assert "batch 2, for cuda, rocm\nnot checked: that is done on the CPU" in capsys.readouterr().out
    assert read(tmp_path / "out")[1]["platforms"] == ["cuda", "rocm"]


def test_a_fresh_process_cannot_import_the_package():
    blocking = export_stablehlo._CALLER.split("import jax")[0]
    for statement, status in (("import gcvit_flax", 1), ("import numpy", 0)):
        process = subprocess.run([sys.executable, "-c", blocking + statement], capture_output=True)
        assert process.returncode == status, process.stderr


def test_bad_input_is_one_sentence_and_leaves_nothing(padded, tmp_path, capsys, monkeypatch):
    model_dir = str(padded[0])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("{}")
    cases = {
        (model_dir, "out", "--batch", "0"): "a batch must be at least 1 image, got 0",
        (model_dir, "out", "--batch", "many"): "--batch must be a number of images or dynamic, got 'many'",
        (model_dir, "out", "--platforms", "cpu,gpu"): "must be one of 'cpu', 'cuda', 'rocm', 'tpu', got 'gpu'",
        ("empty", "out"): "empty is not a model folder: it has no config.json",
        (model_dir, model_dir): "exists and is not an earlier export",
        (model_dir, "empty"): "exists and is not an earlier export",
        (model_dir, "file/out"): "file/out cannot be written",
    }
    for arguments, expected in cases.items():
        with pytest.raises(SystemExit) as stop:
            run_cli(functools.partial(export.main, arguments))
        errors = capsys.readouterr().err
        assert stop.value.code == 1 and expected in errors and errors.count("\n") == 1, (arguments, errors)
    with (
        monkeypatch.context() as patch,
        pytest.raises(UserError, match=r"parameters take .* holds 80,000,000 with its"),
    ):
        patch.setattr(export_stablehlo, "MOST_BYTES", 80_000_000)
        patch.setattr(export_stablehlo, "_ROOM", 80_000_000)
        export_model(model_dir, tmp_path / "out", 2, ["tpu"])
    monkeypatch.setattr(export_stablehlo, "_export", lambda *_: zeros_for("tpu"))
    with pytest.raises(UserError, match="out cannot be written"), full_disk():
        export_model(model_dir, tmp_path / "out", 2, ["tpu"])
    assert names_in(tmp_path) == ["empty", "file"] and names_in(tmp_path / "empty") == []
