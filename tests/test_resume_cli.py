"""Stopping, going on and starting from a model, through the real command line."""

import shutil
import signal
import subprocess
import sys
import time

import numpy as np
from small import TRAIN, read_metrics

from gcvit_flax.weights.store import load_model


def test_four_steps_are_two_steps_and_two_more(run_command, finetune, tmp_path):
    run_command(*finetune, "--workdir", "whole", "--max-steps", "4")
    run_command(*finetune, "--workdir", "parts", "--max-steps", "2")
    process = run_command(*finetune, "--workdir", "parts", "--max-steps", "4")
    assert "steps 3 to 4 of 6" in process.stdout

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    training = [[r for r in read_metrics(folder) if "train_loss" in r] for folder in (whole, parts)]
    assert training[0] == training[1]
    last = [[r for r in read_metrics(folder) if "val_loss" in r][-1] for folder in (whole, parts)]
    assert last[0] == last[1]


def test_sigterm_saves_and_the_run_goes_on(run_command, finetune, compiled_programs, tmp_path):
    command = [sys.executable, *map(str, finetune), "--epochs", "400"]
    environment = {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(compiled_programs), "PATH": ""}
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment)
    metrics = tmp_path / "runs" / "finetune" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (metrics.exists() and '"step": 3' in metrics.read_text()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
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


def test_starting_from_a_model_with_other_classes(run_command, finetune, photos, tmp_path):
    run_command(*finetune, "--max-steps", "1", "--workdir", "first")
    two = tmp_path / "two"
    for part in ("train", "val"):
        for name in ("blue_things", "red_things"):
            shutil.copytree(photos / part / name, two / part / name)
    arguments = ["finetune", "--data", f"folder:{two}", "--batch-size", "4", "--max-steps", "1", "--epochs", "1"]
    process = run_command(TRAIN, *arguments, "--init-from", "first/model", "--learning-rate", "1e-9")
    assert "head" in process.stdout + process.stderr
    (_, before), (model, after) = load_model(tmp_path / "first" / "model"), load_model(tmp_path / "runs/finetune/model")
    assert model.config.num_classes == 2
    for variables in (before, after):
        variables["params"].pop("head")
    np.testing.assert_allclose(
        after["params"]["levels_2"]["blocks_0"]["attn"]["qkv"]["kernel"],
        before["params"]["levels_2"]["blocks_0"]["attn"]["qkv"]["kernel"],
        atol=1e-6,
    )
    process = run_command(TRAIN, *arguments, "--init-from", "first/model", "--embed-dim", "16", status=1)
    assert "--embed-dim cannot change the network of --init-from" in process.stderr
