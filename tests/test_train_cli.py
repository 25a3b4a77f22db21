"""train.py, evaluate and predict through their real command lines, on a handful of generated JPEGs."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT

from gcvit_flax.weights.store import load_model

TRAIN = ROOT / "train.py"
# The smallest network that has every kind of layer.
SMALL = [
    *("--embed-dim", "8", "--depths", "2", "1", "1", "1", "--num-heads", "1", "2", "2", "4"),
    *("--window-size", "4", "4", "2", "1", "--image-size", "32", "--batch-size", "4"),
]


def read_metrics(workdir) -> list[dict]:
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k != "images_per_second"} for record in records]


@pytest.fixture(scope="module")
def finetune(photos):
    return [TRAIN, "finetune", "--data", f"folder:{photos}", *SMALL, "--log-every", "1", "--epochs", "1"]


def test_from_photos_to_predictions(run_command, finetune, photos, tmp_path):
    process = run_command(*finetune, "--learning-rate", "3e-3", "--epochs", "4")
    workdir = tmp_path / "runs" / "finetune"
    assert "best model is in runs/finetune/model" in process.stdout
    assert "Traceback" not in process.stderr

    for name in ("config.json", "metrics.jsonl", "checkpoints", "model", "curves.png"):
        assert (workdir / name).exists(), name
    assert list(workdir.glob("events.out.tfevents.*"))
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
    records = read_metrics(workdir)
    training = [record for record in records if "train_loss" in record]
    evaluations = [record for record in records if "val_loss" in record]
    assert [record["step"] for record in training] == list(range(1, 25))
    assert [record["step"] for record in evaluations] == [6, 12, 18, 24]
    assert {"step", "epoch", "train_loss", "train_top1", "learning_rate"} == training[0].keys()
    assert max(record["val_top1"] for record in evaluations) > 0.6  # Chance is a third; the classes are colours.

    model_dir = workdir / "model"
    process = run_command("-m", "gcvit_flax.evaluate", model_dir, "--data", f"folder:{photos}", "--json")
    results = json.loads(process.stdout)
    best = max(evaluations, key=lambda record: (record["val_top1"], -record["val_loss"]))
    assert results["count"] == 9
    assert results["top1"] == pytest.approx(best["val_top1"])
    assert results["loss"] == pytest.approx(best["val_loss"], rel=1e-4)

    images = sorted((photos / "val").glob("*/*.jpg"))
    broken = tmp_path / "poem.jpg"
    broken.write_text("roses are red")
    process = run_command("-m", "gcvit_flax.predict", model_dir, images[0], broken, *images[1:], "--json", status=1)
    assert f"error: {broken}: not an image" in process.stderr and "Traceback" not in process.stderr
    lines = [json.loads(line) for line in process.stdout.splitlines()]
    assert [line["image"] for line in lines] == [str(path) for path in images]
    right = [line["predictions"][0]["class"] == path.parent.name for line, path in zip(lines, images, strict=True)]
    assert np.mean(right) == pytest.approx(best["val_top1"])
    assert sum(entry["probability"] for entry in lines[0]["predictions"]) == pytest.approx(1)

    process = run_command(*finetune, "--learning-rate", "3e-3", "--epochs", "4")
    assert "this run is done, at step 24" in process.stdout and "--no-resume" in process.stdout
    process = run_command(*finetune, "--learning-rate", "1e-3", "--epochs", "4", status=1)
    assert "learning_rate was 0.003 and is now 0.001" in process.stderr


def test_four_steps_are_two_steps_and_two_more(run_command, finetune, tmp_path):
    noisy = ["--dropout-rate", "0.1", "--drop-path-rate", "0.2"]
    run_command(*finetune, *noisy, "--workdir", "whole", "--max-steps", "4")
    run_command(*finetune, *noisy, "--workdir", "parts", "--max-steps", "2")
    process = run_command(*finetune, *noisy, "--workdir", "parts", "--max-steps", "4")
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


def bad_inputs(photos, tmp_path) -> dict[tuple, tuple[int, str]]:
    empty_class, one_class, broken = tmp_path / "empty_class", tmp_path / "one_class", tmp_path / "broken"
    for name in ("cat", "dog"):
        (empty_class / name).mkdir(parents=True)
    shutil.copytree(photos / "train" / "red_things", one_class / "red_things")
    shutil.copytree(photos / "train", broken)
    for path in broken.glob("*/*.jpg"):
        path.write_text("roses are red")
    return {
        ("--data", "folder:nowhere"): (1, "nowhere is not a folder"),
        ("--data", f"folder:{empty_class}"): (1, "cat holds no images"),
        ("--data", f"folder:{one_class}"): (1, "single class"),
        ("--data", f"folder:{broken}"): (1, "not an image that Pillow can read"),
        ("--variant", "gcvit_huge"): (1, "unknown variant 'gcvit_huge'"),
        ("--image-size", "50"): (1, "does not fit"),
        ("--batch-size", "9", "--devices", "2"): (1, "a batch of 9 does not divide over 2 devices"),
        ("--num-classes", "2"): (1, "fewer than the data's 3 classes"),
        ("--learning-rate", "-1"): (1, "--learning-rate must be positive"),
        ("--learning-rate", "1e20"): (1, "the training loss became nan"),
        ("--init-from", "nowhere"): (1, "nowhere is not a model folder"),
        ("--frobnicate", "3"): (2, "frobnicate"),
        ("--epochs", "many"): (2, "many"),
    }


def test_bad_input_is_one_sentence(run_command, finetune, photos, tmp_path):
    for arguments, (status, expected) in bad_inputs(photos, tmp_path).items():
        command = [*finetune, *arguments]
        if "--image-size" in arguments:  # Without a window size of its own.
            command = [TRAIN, "finetune", "--data", f"folder:{photos}", *arguments]
            expected = "does not divide into the official windows"
        process = run_command(*command, status=status)
        assert expected in process.stderr, (arguments, process.stderr)
        assert "Traceback" not in process.stderr, arguments
        if status == 1:
            assert process.stderr.strip().splitlines()[-1].startswith("error: ")
        assert not (tmp_path / "runs" / "finetune" / "model").exists(), arguments
    process = run_command(TRAIN, "digit", status=2)
    assert "unknown preset 'digit': expected one of digits, finetune" in process.stderr
    process = run_command(TRAIN, "--help")
    assert "digits (default)" in process.stdout and "--learning-rate" in process.stdout
