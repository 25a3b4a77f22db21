"""train.py, evaluate and predict through their real command lines, on a handful of generated JPEGs."""

import functools
import json
import shutil

import numpy as np
import pytest
from small import TRAIN, read_metrics

from gcvit_flax import train
from gcvit_flax.cli import run_cli


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
    names = {"step", "epoch", "train_loss", "train_top1", "grad_norm", "param_norm", "learning_rate"}
    assert names == training[0].keys()
    assert max(record["val_top1"] for record in evaluations) > 0.6  # Chance is a third; the classes are colors.

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
        ("--data", f"folder:{broken}", "--workdir", "broken_run"): (1, "not an image that Pillow can read"),
        ("--variant", "gcvit_huge"): (1, "unknown variant 'gcvit_huge'"),
        ("--image-size", "50"): (1, "does not divide into the official windows"),
        ("--batch-size", "9", "--devices", "2"): (1, "a batch of 9 does not divide over 2 devices"),
        ("--num-classes", "2"): (1, "fewer than the data's 3 classes"),
        ("--learning-rate", "-1"): (1, "--learning-rate must be positive"),
        ("--learning-rate", "1e30", "--warmup-epochs", "0", "--log-every", "2", "--workdir", "steep"): (
            1,
            "in steps 1 to 2: start again",
        ),
        ("--seed", "-1"): (1, "--seed must be at least 0"),
        ("--epochs", "inf"): (1, "--epochs must be positive"),
        ("--profile", "0:3"): (1, "--profile must be START:STOP in steps from 1"),
        ("--clip-norm", "0"): (1, "--clip-norm must be positive"),
        ("--batch-size", "6", "--mixup", "1", "--devices", "2"): (1, "in shares that are multiples of 2"),
        ("--init-from", "nowhere"): (1, "nowhere is not a model folder"),
        ("--init-from", "runs/finetune/model"): (1, "lies in the workdir runs/finetune, which is to be replaced"),
        ("--frobnicate", "3"): (2, "frobnicate"),
        ("--epochs", "many"): (2, "many"),
    }


def test_bad_input_is_one_sentence(finetune, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    earlier = tmp_path / "runs" / "finetune" / "checkpoints" / "5" / "weights"  # Which nothing here may touch.
    earlier.parent.mkdir(parents=True)
    earlier.touch()
    (tmp_path / "runs" / "finetune" / "config.json").write_text("{}")
    for arguments, (status, expected) in bad_inputs(photos, tmp_path).items():
        command = [*map(str, finetune[1:]), *arguments, "--no-resume"]
        if "--image-size" in arguments:  # Without a window size of its own.
            command = ["finetune", "--data", f"folder:{photos}", *arguments, "--no-resume"]
        with pytest.raises(SystemExit) as stop:
            run_cli(functools.partial(train.main, command))
        errors = capsys.readouterr().err
        assert stop.value.code == status, arguments
        assert expected in errors, (arguments, errors)
        if status == 1:
            assert errors.strip().splitlines()[-1].startswith("error: ")
        assert earlier.exists() or "--workdir" in arguments, arguments


def test_usage(run_command):
    process = run_command(TRAIN, "digit", status=1)
    assert "unknown preset 'digit': expected one of digits, finetune" in process.stderr
    process = run_command(TRAIN, "finetune", "--data", "folder:nowhere", status=1)
    assert process.stderr.startswith("error: nowhere is not a folder") and process.stderr.count("\n") == 1
    process = run_command(TRAIN, "finetune", status=1)
    assert "this preset has no data of its own: give --data folder:PHOTOS" in process.stderr
    process = run_command(TRAIN, "--help")
    assert "digits (default)" in process.stdout and "--learning-rate" in process.stdout
