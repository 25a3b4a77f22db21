"""python -m gcvit_flax.probe in this process: features of every image, exact accuracies, and its error messages."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
from small import TINY

import gcvit_flax
from gcvit_flax import devices, probe
from gcvit_flax.cli import run_cli

CLASSES = ("blue_things", "green_things", "red_things")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A model without a head: a probe needs none."""
    model = gcvit_flax.create_model(TINY, num_classes=0)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    gcvit_flax.save_model(folder, model, {"params": gcvit_flax.init_params(model, jax.random.key(0))})
    return folder


@pytest.fixture(autouse=True)
def no_lasting_settings(monkeypatch):
    monkeypatch.setattr(devices, "enable_compilation_cache", lambda: None)


@pytest.fixture
def command(capsys):
    """Runs the command and gives (exit status, stdout, stderr)."""

    def run(*arguments) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            run_cli(functools.partial(probe.main, [str(argument) for argument in arguments]))
        return stop.value.code, *capsys.readouterr()

    return run


def features(folder, model, variables) -> tuple[np.ndarray, np.ndarray]:
    paths = sorted(folder.glob("*/*.jpg"))
    values = jax.jit(lambda x: model.apply(variables, x, method="embed"))(gcvit_flax.preprocess(paths, model))
    return np.asarray(values, np.float64), np.array([CLASSES.index(path.parent.name) for path in paths])


def test_accuracies_are_those_of_features_computed_separately(model_dir, photos, command):
    """24 + 9 images in batches of four on two devices; all of the training part votes, the held-out images too."""
    arguments = (model_dir, "--data", f"folder:{photos}", "--batch-size", "4", "--seed", "1")
    status, output, _ = command(*arguments, "--json")
    results = json.loads(output)
    assert status == 0 and command(*arguments, "--json")[1] == output, "it must not depend on chance"

    model, variables = gcvit_flax.load_model(model_dir)
    (train, labels), (queries, expected) = (features(photos / part, model, variables) for part in ("train", "val"))
    unit, query = (values / np.linalg.norm(values, axis=1, keepdims=True) for values in (train, queries))
    cosines = query @ unit.T
    k = results["nearest_neighbors"]["k"]
    right = 0
    for row, label in zip(cosines, expected, strict=True):
        nearest = np.argsort(-row)[:k]
        right += np.bincount(labels[nearest], np.exp(row[nearest] / 0.07)).argmax() == label
    assert results["nearest_neighbors"]["top1"] == pytest.approx(right / 9)
    assert {*results["nearest_neighbors"]["held_out_top1"]} == {"1", "5", "10"}
    assert results["linear"]["top1"] > 0.6 and str(results["linear"]["l2"]) in results["linear"]["held_out_top1"]
    counts = {name: results[name] for name in ("train_count", "held_out_count", "validation_count", "skipped", "seed")}
    assert counts == {"train_count": 24, "held_out_count": 6, "validation_count": 9, "skipped": 0, "seed": 1}
    assert (results["classes"], results["features"]) == (3, 64) and results["preprocessing"]["image_size"] == [32, 32]

    text = command(*arguments)[1]
    linear = results["linear"]
    assert f"k-nearest neighbors: top-1 {right / 9:.2%}, k = {k}\n" in text
    assert f"linear probe: top-1 {linear['top1']:.2%}, L2 = {linear['l2']:g}\n" in text
    assert "validation on 9 images, after training on 24, of which 6 chose k and L2 before (seed 1)\n" in text
    assert text.endswith("64 features, 3 classes\n")


def test_unreadable_images_are_left_out_if_asked(model_dir, photos, tmp_path, command):
    shutil.copytree(photos, tmp_path / "photos")
    for broken in ("train/red_things/0.jpg", "val/green_things/1.jpg"):
        (tmp_path / "photos" / broken).write_text("not a picture")
    arguments = (model_dir, "--data", f"folder:{tmp_path / 'photos'}")
    status, output, errors = command(*arguments)
    assert (status, output) == (1, "") and "red_things/0.jpg: not an image" in errors and errors.count("\n") == 1
    status, output, _ = command(*arguments, "--skip-corrupt")
    assert status == 0 and "validation on 8 images, after training on 23, " in output
    assert output.endswith("\n2 unreadable images left out\n")
    for path in (tmp_path / "photos" / "val").glob("*/*.jpg"):
        path.write_text("not a picture")
    status, output, errors = command(*arguments, "--skip-corrupt")
    assert (status, output) == (1, "") and errors.endswith("error: none of the images can be read: check the data\n")


def test_bad_input_is_one_sentence(model_dir, photos, tmp_path, command):
    shutil.copytree(photos / "val", tmp_path / "alone" / "val")
    for arguments, status, expected in (
        ((model_dir, "--data", f"folder:{tmp_path / 'alone'}"), 1, "has no training part beside its validation part"),
        ((model_dir, "--data", "pictures"), 1, "unknown data 'pictures'"),
        ((tmp_path, "--data", "digits"), 1, "is not a model folder"),
        ((model_dir, "--data", "digits", "--val-fraction", "0"), 1, "--val-fraction must be above 0"),
        ((model_dir, "--data", "digits", "--batch-size", "0"), 2, "--batch-size must be at least 1, got 0"),
        ((model_dir, "--data", "digits", "--seed", "-1"), 2, "--seed must be at least 0, got -1"),
        ((model_dir,), 2, "--data"),
    ):
        found, output, errors = command(*arguments)
        assert (found, output) == (status, "") and expected in errors
        assert status == 2 or (errors.startswith("error: ") and errors.count("\n") == 1)


def test_features_that_are_not_finite_are_reported(photos, tmp_path, command):
    model = gcvit_flax.create_model(TINY)
    params = gcvit_flax.init_params(model, jax.random.key(0))
    params["norm"]["bias"] = np.full_like(params["norm"]["bias"], np.nan)
    gcvit_flax.save_model(tmp_path / "model", model, {"params": params})
    status, _, errors = command(tmp_path / "model", "--data", f"folder:{photos}")
    assert status == 1 and errors == (
        "error: the model's features are not finite: its parameters are damaged, train it again\n"
    )
