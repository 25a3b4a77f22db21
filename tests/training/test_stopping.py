"""Stops at chosen moments: nothing is lost, nothing is left out, and done means evaluated."""

import os
import signal
import threading

import numpy as np
import pytest
from small import SMALL, read_metrics

from gcvit_flax.data import batches
from gcvit_flax.training import command_line, launch, loop
from gcvit_flax.training.preemption import InterruptibleBatches, StopRequested, StopSignals
from gcvit_flax.weights.model_folder import read_folder

pytestmark = pytest.mark.programs


@pytest.fixture
def train(photos, tmp_path, monkeypatch, capsys):
    """Trains six steps, with an evaluation of three batches after them; `stop_at` numbers the questions whether to."""

    def train(name: str, stop_at: int | None = None, **options) -> str:
        asked = []

        def reached(signals: StopSignals) -> bool:
            asked.append(0)
            return stop_at is not None and len(asked) >= stop_at

        monkeypatch.setattr(StopSignals, "reached", reached)
        arguments = ["finetune", "--data", f"folder:{photos}", *SMALL, "--log-every", "1", "--epochs", "1"]
        arguments += ["--ema-decay", "0.9", "--workdir", str(tmp_path / name)]
        for option, value in options.items():
            arguments += [f"--{option}", str(value)]
        launch.train(command_line.parse(arguments))
        return capsys.readouterr().out

    return train


@pytest.fixture
def whole(train, tmp_path):
    """What an undisturbed run leaves."""
    assert "done: the best model" in train("whole")
    return tmp_path / "whole"


@pytest.mark.parametrize("stop_at", [3, 6, 8, 10], ids=["a step", "the last step", "its evaluation", "the last moment"])
def test_a_run_stopped_at_any_moment_ends_as_if_it_had_not_been(stop_at, whole, train, tmp_path):
    step = min(stop_at, 6)
    assert f"stopped by SIGTERM: saved at step {step} in" in train("stopped", stop_at)
    evaluated = stop_at == 10
    assert any("val_loss" in record for record in read_metrics(tmp_path / "stopped")) == evaluated
    assert (tmp_path / "stopped" / "checkpoints" / str(step)).is_dir()
    assert ("this run is done" if evaluated else "done: the best model") in train("stopped")
    assert "this run is done" in train("stopped")
    assert read_metrics(tmp_path / "stopped") == read_metrics(whole)
    for name, value in read_folder(whole / "model")[2].items():
        np.testing.assert_array_equal(read_folder(tmp_path / "stopped" / "model")[2][name], value, err_msg=name)


def test_an_evaluation_is_stopped_again_when_the_run_goes_on(train, tmp_path):
    train("stopped", 7)
    assert "saved at step 6" in train("stopped", 2)
    assert not any("val_loss" in record for record in read_metrics(tmp_path / "stopped"))
    assert "done: the best model" in train("stopped")


def test_a_checkpoint_is_on_disk_before_its_evaluation(train, tmp_path, monkeypatch):
    def evaluate(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "run_evaluation", evaluate)
    with pytest.raises(KeyboardInterrupt):
        train("run")
    assert (tmp_path / "run" / "checkpoints" / "6").is_dir()


def test_what_was_trained_is_saved_when_the_input_fails(train, tmp_path, monkeypatch):
    def failing(*arguments, **options):
        made = batches.training_batches(*arguments, **options)
        yield from (next(made) for _ in range(4))
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="the disk is gone"):
        patch.setattr(loop, "training_batches", failing)
        train("run")
    assert (tmp_path / "run" / "checkpoints" / "4").is_dir()
    assert "steps 5 to 6 of 6" in train("run")


def test_signals_are_recorded_and_interrupt_a_wait(capfd, heeded_signals):
    with StopSignals() as signals:
        assert not signals.reached()
        signal.raise_signal(signal.SIGHUP)
        assert signals.reached() and signals.name == "SIGHUP"
        signal.raise_signal(signal.SIGTERM)
        assert signals.reached() and signals.name == "SIGHUP"
        with pytest.raises(StopRequested):
            next(InterruptibleBatches(iter(()), signals))
    with StopSignals(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert capfd.readouterr().err.count("Ctrl-C again ends it at once") == 1
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_a_signal_ends_a_wait_for_input_and_the_input_ends_in_order(heeded_signals):
    """Not in its own wait: an exception raised there would leave the locks of its queues held."""
    waits, may_go_on, ended = threading.Event(), threading.Event(), []

    def made():
        yield {"image": 1}
        try:
            waits.set()
            may_go_on.wait()
            yield {"image": 2}
        finally:
            ended.append(threading.current_thread())

    def interrupt() -> None:
        waits.wait()
        os.kill(os.getpid(), signal.SIGTERM)

    with StopSignals() as signals:
        batches = InterruptibleBatches(made(), signals)
        assert next(batches) == {"image": 1}
        threading.Thread(target=interrupt).start()
        with pytest.raises(StopRequested):
            next(batches)
        assert not ended
        may_go_on.set()
        batches.close()
        assert ended
    assert list(InterruptibleBatches((batch for batch in [{"image": 1}]), StopSignals())) == [{"image": 1}]


def test_what_is_ignored_stays_ignored(heeded_signals):
    """As SIGHUP is under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            signal.raise_signal(signal.SIGHUP)
            assert not signals.reached()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
