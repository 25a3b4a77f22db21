"""Stopping, going on and starting from a model, through the real command line."""

import dataclasses
import json
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from small import TINY, TRAIN, parse_metrics, read_metrics, wait_until

from gcvit_flax import train
from gcvit_flax.model.gcvit import create_model
from gcvit_flax.model.init import init_params
from gcvit_flax.training.loop import TrainingRun
from gcvit_flax.training.setup import build_model
from gcvit_flax.training.train_config import TrainConfig
from gcvit_flax.weights.model_folder import load_model, read_folder, save_model

pytestmark = pytest.mark.programs


def test_a_run_killed_at_any_moment_ends_as_if_it_had_not_been(run_command, finetune, environment, tmp_path):
    """kill -9, mostly in the middle of a save: the same losses and parameters, bit for bit. tests/soak has more."""
    command = [*finetune, "--epochs", "100", "--max-steps", 15, "--save-every", "1", "--ema-decay", "0.9"]
    run_command(*command, "--workdir", "whole")
    killed, rng = tmp_path / "killed", random.Random(0)
    process = subprocess.Popen(
        [sys.executable, *map(str, [*command, "--workdir", "killed"])],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: len(read_metrics(killed)) >= 3, process)
        time.sleep(rng.uniform(0, 0.5))
    finally:
        process.kill()
        process.wait()
    lost_from = read_metrics(killed)[-1]["step"]
    again = run_command(*command, "--workdir", "killed")
    resumed_at = int(again.stdout.split("run: steps ")[1].split()[0])
    assert lost_from - 3 <= resumed_at <= lost_from + 1  # One save may be under way, and one step run ahead of it.
    assert read_metrics(killed) == read_metrics(tmp_path / "whole")
    whole, parts = (read_folder(folder / "model")[2] for folder in (tmp_path / "whole", killed))
    for name, value in whole.items():
        np.testing.assert_array_equal(parts[name], value, err_msg=name)


def test_sigterm_saves_and_the_run_goes_on(run_command, finetune, environment, tmp_path):
    command = [sys.executable, *map(str, finetune), "--epochs", "400"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment)
    metrics = tmp_path / "runs" / "finetune" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and '"step": 3' in metrics.read_text(), process)
    busy = run_command(*finetune, "--epochs", "400", status=1)
    assert "in use by another run" in busy.stderr
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    step = int(output.split("saved at step ")[1].split()[0])
    again = run_command(*finetune, "--epochs", "400", "--max-steps", step + 2)
    assert f"steps {step + 1} to {step + 2} of" in again.stdout
    steps = [record["step"] for record in read_metrics(metrics.parent) if "train_loss" in record]
    assert steps == list(range(1, step + 3))

    # As a run leaves it that is stopped between the last checkpoint and its evaluation.
    *lines, evaluation = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines))
    shutil.rmtree(metrics.parent / "model")
    run_command(*finetune, "--epochs", "400", "--max-steps", step + 2)
    *lines_now, evaluation_now = metrics.read_text().splitlines(keepends=True)
    assert lines_now == lines and parse_metrics(evaluation_now) == parse_metrics(evaluation)
    assert (metrics.parent / "model").is_dir()


def test_a_damaged_checkpoint_gives_way_to_the_one_before(run_command, finetune, tmp_path):
    checkpoints = tmp_path / "runs" / "finetune" / "checkpoints"
    run_command(*finetune, "--max-steps", "2", "--save-every", "1")
    damaged = checkpoints / "2" / "default" / "_METADATA"
    damaged.write_bytes(damaged.read_bytes().replace(b"params", b"qarams", 1))
    process = run_command(*finetune, "--max-steps", "2", "--save-every", "1")
    warning = f"{damaged} is damaged: the checkpoint is now 2.damaged, and the run goes on from step 1"
    assert sum(line.endswith(warning) for line in process.stderr.splitlines()) == 1
    assert "run: steps 2 to 2 of" in process.stdout
    assert [record["step"] for record in read_metrics(checkpoints.parent) if "train_loss" in record] == [1, 2]
    for step in ("1", "2"):
        (checkpoints / step / "commit_success.txt").unlink()
    process = run_command(*finetune, "--max-steps", "3", status=1)
    assert process.stderr.startswith("error: no checkpoint in ") and process.stderr.count("\n") == 1
    assert sorted(path.name for path in checkpoints.iterdir()) == ["1", "2", "2.damaged"]


def test_memory_options_and_the_place_of_the_data_may_change(run_command, finetune, photos, tmp_path):
    exact = ["--dropout-rate", "0", "--max-steps"]  # Each part of a batch has its own dropout masks.
    run_command(*finetune, *exact, "6", "--workdir", "whole")
    run_command(*finetune, *exact, "1")
    moved = shutil.copytree(photos, tmp_path / "moved")
    run_command(*finetune, *exact, "2", "--data", f"folder:{moved}")
    run_command(*finetune, *exact, "3", "--remat")
    run_command(*finetune, *exact, "6", "--accumulation-steps", "2")
    workdir = tmp_path / "runs" / "finetune"
    saved = json.loads((workdir / "config.json").read_text())
    assert saved["accumulation_steps"] == 2 and not saved["remat"] and saved["data"] == f"folder:{photos}"
    losses, expected = (
        [record["train_loss"] for record in read_metrics(folder) if "train_loss" in record]
        for folder in (workdir, tmp_path / "whole")
    )
    assert len(losses) == 6
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    next((moved / "train" / "red_things").glob("*.jpg")).unlink()
    process = run_command(*finetune, *exact, "7", "--data", f"folder:{moved}", status=1)
    assert "training_examples was 24 and is now 23" in process.stderr
    assert f"use the same options (--data folder:{photos} as it was) or another --workdir" in process.stderr


def test_the_new_memory_options_are_really_used(tmp_path, monkeypatch, finetune, run_command):
    """The resumed run's model and step are built with them, as the saved config.json is from before."""
    run_command(*finetune, "--max-steps", "1")
    monkeypatch.chdir(tmp_path)
    built = []

    def stop(run, *_):
        built.append((run.model.remat, run.config.accumulation_steps))

    monkeypatch.setattr(TrainingRun, "execute", stop)
    train.main([*map(str, finetune[1:]), "--remat", "--accumulation-steps", "2"])
    assert built == [(True, 2)]


def test_the_head_alone_learns_other_classes_from_a_model(run_command, finetune, photos, tmp_path):
    run_command(*finetune, "--max-steps", "1", "--workdir", "first")
    two = tmp_path / "two"
    for part in ("train", "val"):
        for name in ("blue_things", "red_things"):
            shutil.copytree(photos / part / name, two / part / name)
    arguments = ["finetune", "--data", f"folder:{two}", "--batch-size", "4", "--max-steps", "1", "--epochs", "1"]
    arguments += ["--warmup-epochs", "0", "--head-only", "--init-from", "first/model"]
    process = run_command(TRAIN, *arguments)
    assert "the head is new, 2 classes" in process.stdout + process.stderr
    (_, before), (model, after) = load_model(tmp_path / "first" / "model"), load_model(tmp_path / "runs/finetune/model")
    assert model.config.num_classes == 2
    head = after["params"].pop("head")
    assert head["kernel"].shape[1] == 2 and np.all(head["bias"] != 0)  # It starts from 0.
    del before["params"]["head"]
    jax.tree.map(np.testing.assert_array_equal, after["params"], before["params"])

    shutil.rmtree(tmp_path / "first")  # The run in its workdir needs it no more.
    assert "this run is done" in run_command(TRAIN, *arguments).stdout
    process = run_command(TRAIN, *arguments, "--workdir", "other", status=1)
    assert "first/model is not a model folder" in process.stderr


def test_options_that_do_not_fit_the_model_to_start_from(tmp_path):
    model = create_model(TINY)
    save_model(tmp_path / "model", model, {"params": init_params(model, jax.random.key(0))})
    config = TrainConfig(init_from=str(tmp_path / "model"))
    for change, expected in (
        ({"embed_dim": 16}, "--embed-dim cannot change the network of --init-from"),
        ({"variant": "gcvit_tiny"}, "--variant gcvit_tiny differs from the network"),
        ({"num_classes": 2}, "--num-classes 2 is fewer than the data's 3 classes"),
    ):
        with pytest.raises(ValueError, match=expected):
            build_model(dataclasses.replace(config, **change), ("a", "b", "c"))
