"""The benchmarks as a user calls them, at a size that says nothing about speed."""

import inspect
import itertools
import json
import os
import pkgutil
import time

import jax
import pytest
from small import ROOT

import gcvit_flax.model
from benchmarks import accelerator, accelerator_parity, accelerator_pieces
from benchmarks.processes import OutOfTimeError, rows_of
from gcvit_flax.errors import UserError
from gcvit_flax.model import kernels

pytestmark = pytest.mark.programs

SMALL_RUN = ["-m", "benchmarks.compare", "--batch", "2", "--image-size", "32", "--rounds", "1", "--peer", "none"]


def test_compare_reports_what_ours_takes(run_command):
    done = run_command(*SMALL_RUN, "--json", PYTHONPATH=str(ROOT))
    results = json.loads(done.stdout)
    ours = results["ours"]
    assert 0 < ours["min_s"] <= ours["median_s"]
    assert ours["images_per_second"] == 2 / ours["median_s"]
    assert ours["gflop_per_second"] > 0 and ours["compile_s"] > 0 and 0 < ours["peak_memory_gib"] < 16
    assert " cores of " in ours["machine"] and f"JAX {jax.__version__}" in ours["machine"]
    assert ours["ceilings"]["matmul_gflop_per_second"] > 0
    assert "ratio" not in results


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--peer", "timm"], "pip install torch"),
        (["--peer", "openvino"], "pip install torch"),
        (["--peer", "onnxruntime", "--task", "train"], "--peer onnxruntime is for inference"),
        (["--peer", "openvino", "--compile-peer"], "--peer openvino is for inference by a compiler of its own"),
        (["--peer", "onnxruntime", "--dtype", "bfloat16"], "leave out --dtype bfloat16"),
    ],
)
def test_compare_says_what_a_peer_cannot_do_and_how_to_install_it(run_command, options, said):
    done = run_command("-m", "benchmarks.compare", *options, PYTHONPATH=str(ROOT), status=1)
    assert said in done.stderr and done.stderr.count("\n") == 1


def test_compare_refuses_no_rounds(run_command):
    done = run_command(*SMALL_RUN, "--rounds", "0", PYTHONPATH=str(ROOT), status=1)
    assert "--rounds" in done.stderr


def test_compare_input_reports_ours(run_command, photos):
    small = ["--images", photos / "train", "--image-size", "32", "--batch", "2", "--workers", "1", "--seconds", "0.1"]
    command = ["-m", "benchmarks.compare_input", *small, "--rounds", "2", "--sides", "ours"]
    lines = run_command(*command, PYTHONPATH=str(ROOT)).stdout.splitlines()
    assert (
        len(lines) == 3
        and lines[0].startswith("1 ours: ")
        and lines[-1].endswith("ours is 1.00 times as fast per core")
    )
    done = run_command(*command, "torchvision", "--peers", "/bin/false", PYTHONPATH=str(ROOT), status=1)
    assert "pip install" in done.stderr and "Traceback" not in done.stderr


def test_many_files_reports_what_workers_get(run_command):
    done = run_command("-m", "benchmarks.many_files", "--images", "3000", "--workers", "1", PYTHONPATH=str(ROOT))
    assert "2000 + 1000 images opened in " in done.stdout and "worker 0: " in done.stdout
    assert "sent to each worker: 0.0" in done.stdout


SMALL_NETWORK = ["--image-size", "64", "--depths", "2", "1", "1", "1", "--embed-dim", "8", "--variants", "gcvit_xxtiny"]
ACCELERATOR = ["-m", "benchmarks.accelerator", "--batches", "2", "--dtypes", "float32", "--seconds", "0.001"]


@pytest.fixture
def measured(run_command, tmp_path):
    """Runs a part of benchmarks.accelerator and returns its tables and what it printed."""

    def measure(part: str) -> tuple[dict, str]:
        command = [*ACCELERATOR, *SMALL_NETWORK, "--parts", part, "--json", "results.json"]
        done = run_command(*command, PYTHONPATH=str(ROOT))
        results = json.loads((tmp_path / "results.json").read_text())
        assert results["left_out"] == {} and "Left out" not in done.stdout
        assert results["command"] in done.stdout and "--parts " + part in results["command"]
        assert f"Measured on 1 x cpu, {results['date']}, jax " in done.stdout
        return results["tables"], done.stdout

    return measure


def test_accelerator_says_how_far_it_is_from_the_cpu(measured):
    tables, printed = measured("parity")
    *exact, rounded = tables["parity"]
    assert [row["precision"] for row in exact] == ["highest", "default"]
    for row in exact:
        assert row["dtype"] == "float32" and max(row["logits"], row["gradients"], row["worst_gradient"]) < 1e-4
    assert rounded["dtype"] == "bfloat16" and 1e-4 < rounded["logits"] < 0.1
    assert 1e-4 < rounded["gradients"] <= rounded["worst_gradient"]
    assert f"| bfloat16 | default | {rounded['logits']:.1e} |" in printed


def test_accelerator_reports_training_steps_and_inference(measured):
    tables, printed = measured("rates")
    assert [row["task"] for row in tables["rates"]] == ["train", "infer"]
    for row in tables["rates"]:
        assert row["images_per_second"] == pytest.approx(2e3 / row["milliseconds"])
        assert 0 < row["peak_memory_gib"] < 16 and row["first_call_seconds"] > row["milliseconds"] / 1e3
    assert "| training step | xxtiny | 2 | float32 |" in printed and "| inference | xxtiny | 2 |" in printed


def test_accelerator_times_every_piece_beside_plain_kernels(measured):
    tables, printed = measured("pieces")
    rows = {row["piece"]: row for row in tables["pieces"]}
    for level in range(4):
        assert {f"local attention, level {level}", f"global attention, level {level}"} <= rows.keys()
    assert {"stem", "MBConv in the stem", "downsampling after level 2", "global query, level 0"} <= rows.keys()
    for name, row in rows.items():
        times = ["forward"] if name.startswith("augmentation") else accelerator_pieces.TIMES
        assert all(row[time] > 0 for time in times)
        assert f"| {name} | {row['forward']:.3f} |" in printed
    assert len(rows) == 25


def test_accelerator_replaces_every_kernel_of_the_network_in_the_plain_form():
    names = {module.name for module in pkgutil.iter_modules(gcvit_flax.model.__path__)} - {"kernels"}
    modules = [__import__(f"gcvit_flax.model.{name}", fromlist=["*"]) for name in names]

    # These compute nothing, mbconv is called where fit_kernels says so, and the next where kernels are narrow; the last
    # calls what is replaced in a module of the kernels.
    others = (
        *("split_heads", "AttentionSettings", "wide_type", "widen", "mbconv", "strided_conv3x3_by_rows"),
        "dense_dot_general",
    )

    def used() -> set[str]:
        """The kernels that the network's modules name, but for the plain ones."""
        return {
            f"{module.__name__}.{name}"
            for module in modules
            for name, value in vars(module).items()
            if not inspect.ismodule(value) and getattr(value, "__module__", "").startswith(kernels.__name__ + ".")
            if value.__module__ not in (kernels.plain.__name__, kernels.narrow.__name__) and name not in others
        }

    assert used()
    with accelerator_pieces.plain_kernels():
        assert used() == set()
        assert kernels.dense.dense is kernels.plain.dense


def test_accelerator_names_what_it_had_no_time_for():
    item = accelerator.Item("parity", accelerator_parity.measure, ("gcvit_xxtiny", 64, {}), share=1.0)
    results = accelerator.measure([item], time.monotonic() - 2, 1.0)
    assert results == {"tables": {}, "left_out": {"out of time": ["parity"]}}


def test_accelerator_says_once_that_there_is_no_timm(run_command):
    done = run_command(*ACCELERATOR, "--parts", "timm", PYTHONPATH=str(ROOT), status=1)
    assert done.stderr.count("PyTorch and timm are not installed here") == 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--minutes", "0"], "--minutes must be more than 0"),
        (["--batches"], "--batches must be more than 0"),
        (["--variants", "gcvit_huge"], "got gcvit_huge"),
        (["--json", "nowhere/results.json"], "make nowhere first"),
    ],
)
def test_accelerator_refuses_what_it_cannot_do(run_command, options, said):
    done = run_command("-m", "benchmarks.accelerator", *options, PYTHONPATH=str(ROOT), status=1)
    assert said in done.stderr and "Traceback" not in done.stderr


def times():
    """When each row was asked for."""
    while True:
        yield time.monotonic()


def test_a_row_is_measured_when_it_is_asked_for():
    """Otherwise sides that take turns would run at the same time."""
    rows = rows_of(times, what="times")
    next(rows)
    time.sleep(0.5)
    asked = time.monotonic()
    assert next(rows) > asked
    rows.close()


def test_a_measurement_ends_at_its_deadline():
    with pytest.raises(OutOfTimeError):
        list(rows_of(itertools.count, what="counting", deadline=time.monotonic() + 1))


def test_a_measurement_that_dies_is_said_to_have():
    with pytest.raises(UserError, match="leaving ended with status 3"):
        list(rows_of(os._exit, 3, what="leaving"))
