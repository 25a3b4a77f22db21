"""Metrics in Weights & Biases; that the package itself takes them is tested by train.py's own runs, offline."""

import sys
import types
from unittest import mock

import jax
import pytest

from gcvit_flax.errors import UserError
from gcvit_flax.model.gcvit import create_model
from gcvit_flax.training.plan import Plan
from gcvit_flax.training.report.run_log import RunLog
from gcvit_flax.training.report.weights_and_biases import check_installed
from gcvit_flax.training.train_config import TrainConfig

RESULTS = {"val": {"loss": 0.5, "top1": 0.75, "top5": 1.0, "count": 8}}


class Recorder:
    """Stands in for the package: keeps what it is told."""

    def __init__(self):
        self.asked, self.logged, self.finished, self.error = [], [], 0, None
        self.module = types.ModuleType("wandb")
        self.module.Error, self.module.Settings, self.module.init = RuntimeError, dict, self.init

    def init(self, **arguments):
        if self.error:
            raise RuntimeError(self.error)
        self.asked.append(arguments)
        return self

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.finished += 1


@pytest.fixture
def recorder(monkeypatch):
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", recorder.module)
    return recorder


def log(workdir) -> RunLog:
    config = TrainConfig(batch_size=10, wandb="flowers", seed=5)
    return RunLog(workdir, create_model(), Plan(config, 100), jax.local_devices(), 0)


def test_a_resumed_run_goes_on_under_its_id(recorder, tmp_path):
    for _ in range(2):
        report = log(tmp_path)
        report.evaluation(10, RESULTS)
        report.close()
    first, second = recorder.asked
    assert first["project"] == "flowers" and first["config"]["seed"] == 5 and first["name"] == tmp_path.name
    assert first["id"] == second["id"] == (tmp_path / "wandb_id.txt").read_text() and second["resume"] == "allow"
    assert recorder.logged[0][0] == 10 and recorder.logged[0][1]["val_top1"] == 0.75 and recorder.finished == 2


def test_errors_after_the_start_end_no_run_and_are_said_once(recorder, tmp_path, caplog, monkeypatch):
    report = log(tmp_path)
    for name in ("log", "finish"):
        monkeypatch.setattr(recorder, name, mock.Mock(side_effect=ConnectionError("the network is gone")))
    for step in (10, 20):
        report.evaluation(step, RESULTS)
    report.close()
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith("metrics cannot be sent to Weights & Biases (the network is gone): some will be missing")
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2 and (tmp_path / "curves.png").exists()


def test_what_keeps_weights_and_biases_from_starting_is_one_sentence(recorder, tmp_path):
    recorder.error = "api_key not configured (no-tty)\nmore"
    with pytest.raises(UserError, match=r"cannot be used \(api_key not configured \(no-tty\)\): run wandb login"):
        log(tmp_path)


def test_a_missing_package_is_named(monkeypatch):
    for module in (None, types.ModuleType("wandb")):  # The second is a folder named wandb.
        monkeypatch.setitem(sys.modules, "wandb", module)
        with pytest.raises(UserError, match=r'pip install ".\[wandb\]" brings it'):
            check_installed()
