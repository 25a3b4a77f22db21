import contextlib
import json

import jax
import numpy as np
import pytest
from small import full_disk

from gcvit_flax.model.gcvit import create_model
from gcvit_flax.training.plan import Plan
from gcvit_flax.training.report import timing
from gcvit_flax.training.report.profiling import Profile
from gcvit_flax.training.report.run_log import RunLog
from gcvit_flax.training.train_config import TrainConfig


@pytest.fixture
def clock(monkeypatch):
    """The time of day, to be set forward."""
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


@pytest.fixture
def report(tmp_path):
    plan = Plan(TrainConfig(batch_size=10, epochs=3), 100)
    report = RunLog(tmp_path, create_model(), plan, jax.local_devices(), 0)
    yield report
    report.close()


def metrics(**changes) -> dict:
    values = {"train_loss": 1.0, "train_top1": 0.5, "grad_norm": 2.0, "param_norm": 3.0} | changes
    return {name: np.float32(value) for name, value in values.items()}


def step(report: RunLog, clock: list, seconds: float = 1.0, waiting: float = 0.0, skipped: int = 0, **changes) -> None:
    with report.clock.waiting_for("input"):
        clock[0] += waiting
    clock[0] += seconds - waiting
    report.step(metrics(**changes), skipped)


def last_line(tmp_path) -> dict:
    return json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])


def test_the_rate_leaves_out_the_step_that_compiles_and_says_where_time_goes(report, clock, tmp_path, capsys):
    step(report, clock, seconds=60)
    assert "first step done after" in capsys.readouterr().out
    for loss in (1.0, 3.0, 5.0):
        step(report, clock, seconds=2, waiting=0.5, train_loss=loss, skipped=1)
    report.training(4)
    line = last_line(tmp_path)
    assert line["images_per_second"] == 5 and line["input_share"] == 0.25
    assert line["train_loss"] == 2.5 and line["skipped_images"] == 3 and line["epoch"] == 0.4
    assert line["peak_memory_gib"] > 0.05
    assert "waiting for input 25%" in capsys.readouterr().out
    clock[0] += 1000  # An evaluation, after which the loop starts the clock.
    report.clock.start()
    step(report, clock, seconds=4)
    report.training(5)
    assert last_line(tmp_path)["images_per_second"] == 2.5


@pytest.mark.parametrize("name", ["train_loss", "grad_norm", "param_norm"])
def test_what_is_not_finite_stops_the_run_and_names_the_steps(report, clock, name):
    for _ in range(2):
        step(report, clock)
    report.training(2)
    for value in (1.0, np.nan, 1.0):
        step(report, clock, **{name: value})
    with pytest.raises(ValueError, match="in steps 3 to 5: start again"):
        report.training(5)


def test_evaluations_of_parameters_and_their_average(report, tmp_path, capsys):
    results = {"loss": 0.5, "top1": 0.75, "top5": 1.0, "count": 8}
    assert report.improves({"ema_val": results}, "ema_val")
    report.evaluation(10, {"val": results, "ema_val": results | {"top1": 0.5}})
    assert last_line(tmp_path)["val_top1"] == 0.75 and last_line(tmp_path)["ema_val_top1"] == 0.5
    assert "averaged parameters: loss 0.5000, top-1 50.00%" in capsys.readouterr().out
    assert report.improves({"ema_val": results}, "ema_val") and not report.improves({"val": results}, "val")
    assert report.has_evaluation(10) and not report.has_evaluation(9)
    assert report.best_step("val") == 10 and report.best_step("nothing") is None


def test_evaluations_and_the_epochs_between_them_are_timed(clock, report, tmp_path):
    step(report, clock, seconds=60)  # Compiling counts for the run alone.
    for _ in range(4):
        step(report, clock, seconds=2)
    with report.epoch_clock.evaluating():
        clock[0] += 30
    report.evaluation(5, {"val": {"loss": 0.5, "top1": 0.75, "top5": 1.0, "count": 8}})
    line = last_line(tmp_path)
    assert line["epoch_images_per_second"] == 5 and line["evaluation_seconds"] == 30
    assert line["elapsed_seconds"] == 98
    step(report, clock, seconds=5)
    report.training(6)
    assert last_line(tmp_path)["elapsed_seconds"] == 103
    with report.epoch_clock.evaluating():
        clock[0] += 1
    report.evaluation(6, {"val": {"loss": 0.5, "top1": 0.75, "top5": 1.0, "count": 8}})
    assert last_line(tmp_path)["epoch_images_per_second"] == 2

    clock[0] += 10_000  # Until the run is resumed.
    resumed = RunLog(tmp_path, create_model(), Plan(TrainConfig(batch_size=10), 100), jax.local_devices(), 6)
    step(resumed, clock, seconds=7)
    resumed.training(7)
    resumed.close()
    assert last_line(tmp_path)["elapsed_seconds"] == 111


def test_pictures_that_cannot_be_written_do_not_hide_what_ended_the_run(tmp_path, caplog):
    report = RunLog(tmp_path, create_model(), Plan(TrainConfig(batch_size=10), 100), jax.local_devices(), 0)
    report.evaluation(10, {"val": {"loss": 0.5, "top1": 0.75, "top5": 1.0, "count": 8}})
    with pytest.raises(ValueError, match="the reason"), full_disk(), contextlib.closing(report):
        raise ValueError("the reason")
    assert "curves.png cannot be written" in caplog.text


def test_the_peak_of_known_devices():
    device = type("Device", (), {})
    for kind, expected in {
        "TPU v5 lite": 197e12,
        "TPU v5": 459e12,
        "NVIDIA A100-SXM4-80GB": 312e12,
        "NVIDIA H100 80GB HBM3": 989e12,
        "NVIDIA H100 PCIe": 756e12,
        "NVIDIA L4": 121e12,
        "NVIDIA L40S": 362e12,
        "NVIDIA GeForce RTX 4090": None,
        "NVIDIA A1000": None,
        "cpu": None,
    }.items():
        device.device_kind = kind
        assert timing.peak_flops(device) == expected, kind


def test_utilisation_is_useful_operations_over_the_peak(monkeypatch, clock):
    """2.1 GMACs is the paper's figure for gcvit_xxtiny (table 1)."""
    model = create_model("gcvit_xxtiny")
    flops = timing.training_flops(model)
    assert flops == pytest.approx(3 * 2 * 2.1e9, rel=0.1)
    monkeypatch.setattr(timing, "peak_flops", lambda device: 1e12)
    watch = timing.StepClock(model, 32, jax.local_devices()[:2])
    clock[0] += 2
    watch.step()
    assert watch.report()["model_flop_utilisation"] == pytest.approx(flops * 16 / 2e12, abs=1e-4)


@pytest.mark.parametrize(
    ("span", "steps", "expected"),
    [
        ("2:3", range(1, 6), ["start 2", "stop 3"]),
        ("3:3", range(1, 6), ["start 3", "stop 3"]),
        ("2:9", range(1, 6), ["start 2", "stop 5"]),  # The run ends before.
        ("2:9", range(4, 12), ["start 4", "stop 9"]),  # It goes on after the first of them.
        (None, range(1, 6), []),
    ],
)
def test_the_steps_that_are_profiled(span, steps, expected, tmp_path, monkeypatch):
    events, now = [], [0]
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: events.append(f"start {now[0]}"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: events.append(f"stop {now[0]}"))
    with Profile(span, tmp_path) as profile:
        for now[0] in steps:
            profile.before(now[0])
            profile.after(now[0], ())
    assert events == expected


def test_a_profile_that_never_ran_is_said(tmp_path, caplog):
    with Profile("20:25", tmp_path) as profile:
        profile.before(1)
    assert "--profile 20:25: no step of these was run" in caplog.text
