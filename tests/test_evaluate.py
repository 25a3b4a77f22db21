"""python -m gcvit_flax.evaluate in this process, with one tiny model for all tests."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from small import TINY

import gcvit_flax
from gcvit_flax import devices, evaluate
from gcvit_flax.errors import UserError
from gcvit_flax.training import evaluation
from gcvit_flax.weights.classes import imagenet_classes, wordnet_ids

CLASSES = ("blue_things", "green_things", "red_things")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    model = gcvit_flax.create_model(TINY)
    params = gcvit_flax.init_params(model, jax.random.key(0))
    params["head"]["kernel"] *= 20.0  # So that it does not predict one class for all.
    folder = tmp_path_factory.mktemp("model") / "tiny"
    gcvit_flax.save_model(folder, model, {"params": params}, class_names=CLASSES)
    return folder


@pytest.fixture(autouse=True)
def no_lasting_settings(monkeypatch):
    monkeypatch.setattr(devices, "enable_compilation_cache", lambda: None)


@pytest.fixture
def damaged(photos, tmp_path):
    shutil.copytree(photos / "val", tmp_path / "val")
    (tmp_path / "val" / "green_things" / "1.jpg").write_text("grass is green")
    return tmp_path


def run(capsys, *arguments) -> str:
    evaluate.main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def test_counts_are_exact_and_corrupt_images_left_out(model_dir, damaged, tmp_path, capsys):
    """Eight readable images of nine in batches of four on two devices, against predictions computed separately."""
    arguments = (model_dir, "--data", f"folder:{damaged}", "--batch-size", "4")
    picture = tmp_path / "confusion.png"
    results = json.loads(run(capsys, *arguments, "--skip-corrupt", "--confusion", picture, "--json"))

    model, variables = gcvit_flax.load_model(model_dir)
    paths = [path for path in sorted(damaged.glob("val/*/*.jpg")) if path.read_bytes() != b"grass is green"]
    labels = np.array([CLASSES.index(path.parent.name) for path in paths])
    logits = jax.jit(model.apply)(variables, gcvit_flax.preprocess(paths, model))
    log_probabilities = np.asarray(jax.nn.log_softmax(logits))
    predicted = log_probabilities.argmax(-1)
    assert len(set(predicted)) > 1, "one class for all would hide errors"

    assert (results["count"], results["skipped"]) == (8, 1)
    assert results["top1"] == (predicted == labels).mean() and results["top5"] == 1.0
    assert results["loss"] == pytest.approx(-log_probabilities[np.arange(8), labels].mean(), rel=1e-4)
    for index, name in enumerate(CLASSES):
        own = predicted[labels == index]
        assert results["classes"][name] == {"top1": pytest.approx((own == index).mean()), "count": len(own)}
    assert results["preprocessing"]["image_size"] == [32, 32] and results["preprocessing"]["crop_mode"] == "center"
    assert Image.open(picture).size > (400, 400)


def test_the_text_shows_what_the_numbers_depend_on(model_dir, photos, capsys, monkeypatch):
    results = {"loss": 0.5, "top1": 0.75, "top5": 1.0, "count": 8}
    asked = []
    monkeypatch.setattr(
        evaluation,
        "run_evaluation",
        lambda *arguments, **options: asked.append((*arguments, options)) or {"model": dict(results)},
    )
    arguments = (
        model_dir,
        "--data",
        f"folder:{photos}",
        "--devices",
        "1",
        "--batch-size",
        "3",
        "--split",
        "train",
        "--workers",
        "2",
    )
    text = run(capsys, *arguments)
    assert "top-1 75.00%, top-5 100.00%, loss 0.5000 over 8 images, 16 unreadable ones left out" in text
    assert "32 x 32 px, center crop, crop fraction 1, bicubic, mean (0.485, 0.456, 0.406), std (0.229" in text
    _, _, source, _, batch_size, chosen, options = asked[0]
    assert (len(source), batch_size, len(chosen)) == (24, 3, 1)
    assert options == {"skip_corrupt": False, "workers": 2}

    results["loss"] = float("nan")
    with pytest.raises(UserError, match="gives a loss of nan: its parameters are damaged"):
        run(capsys, *arguments)


def test_mistakes_are_reported_before_the_evaluation(model_dir, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluation, "run_evaluation", None)
    shutil.copytree(photos / "val", tmp_path / "renamed")
    (tmp_path / "renamed" / "red_things").rename(tmp_path / "renamed" / "roses")
    data = ("--data", f"folder:{photos}")
    for arguments, expected in {
        (*data, "--confusion", "/no/such/folder/out.png"): "/no/such/folder/out.png cannot be written",
        (*data, "--confusion", "out.jpg"): "a picture's name must end in .png, got out.jpg",
        (*data, "--devices", "3"): "3",
        (*data, "--batch-size", "3", "--devices", "2"): "does not divide over 2 devices",
        ("--data", f"folder:{tmp_path / 'renamed'}"): "the data's class 'roses' is not among the model's 3",
        ("--data", "digits"): "the data has 10 classes and the model 3",
    }.items():
        with pytest.raises(UserError, match=expected):
            run(capsys, model_dir, *arguments)
    with pytest.raises(SystemExit, match="2"):
        run(capsys, model_dir, *data, "--batch-size", "0")


def test_nothing_readable_is_an_error(damaged):
    for path in damaged.glob("val/*/*.jpg"):
        path.write_text("")
    data = evaluate_source(damaged)
    masked = {"loss": np.float32(0), "top1": np.int32(0), "top5": np.int32(0), "count": np.int32(0)}
    preprocessing = gcvit_flax.create_model(TINY).preprocessing
    with pytest.raises(UserError, match="none of the 9 images to evaluate on can be read"):
        evaluation.run_evaluation(
            lambda *_: masked, {"model": {}}, data, preprocessing, 4, jax.devices(), skip_corrupt=True
        )


def evaluate_source(root):
    from gcvit_flax.data.datasets import open_data

    return open_data(f"folder:{root}", split="val").validation


@pytest.fixture(scope="module")
def imagenet_dir(tmp_path_factory):
    """A model of ImageNet's classes that predicts different ones."""
    model = gcvit_flax.create_model(TINY, num_classes=1000)
    params = gcvit_flax.init_params(model, jax.random.key(0))
    params["head"]["kernel"] *= 20.0
    folder = tmp_path_factory.mktemp("imagenet") / "tiny"
    gcvit_flax.save_model(folder, model, {"params": params}, class_names=imagenet_classes())
    return folder


@pytest.fixture
def named(photos, tmp_path):
    """Makes a data set of the photos' three validation classes, with other names."""

    def make(*names: str):
        for name, other in zip(CLASSES, names, strict=True):
            shutil.copytree(photos / "val" / name, tmp_path / "named" / "val" / other)
        return tmp_path / "named"

    return make


@pytest.mark.parametrize("by_id", [True, False])
def test_a_subset_of_imagenet_is_evaluated_on_its_own_logits(imagenet_dir, named, tmp_path, capsys, by_id):
    indices = [281, 0, 999]  # In another order than that of the data's sorted names.
    names = wordnet_ids(imagenet_classes()) if by_id else imagenet_classes()
    data = named(*(names[index] for index in indices))
    arguments = (imagenet_dir, "--data", f"folder:{data}")
    picture = tmp_path / "confusion.png"
    results = json.loads(run(capsys, *arguments, "--json", "--confusion", picture))

    model, variables = gcvit_flax.load_model(imagenet_dir)
    paths = sorted(data.glob("val/*/*.jpg"))
    chosen = np.array([names.index(name) for name in sorted(names[index] for index in indices)])
    labels = np.array([np.flatnonzero(chosen == names.index(path.parent.name))[0] for path in paths])
    logits = jax.jit(model.apply)(variables, gcvit_flax.preprocess(paths, model))[:, chosen]
    log_probabilities = np.asarray(jax.nn.log_softmax(logits))
    assert results["loss"] == pytest.approx(-log_probabilities[np.arange(9), labels].mean(), rel=1e-4)
    assert results["top1"] == (log_probabilities.argmax(-1) == labels).mean() and results["top5"] == 1.0
    assert (results["evaluated_classes"], results["model_classes"], results["count"]) == (3, 1000, 9)
    assert {*results["classes"]} == {names[index] for index in indices} and picture.exists()
    assert "\nclasses: the data's 3 of the model's 1,000, whose logits alone were compared\n" in run(capsys, *arguments)


def test_some_of_a_models_classes_are_evaluated_on_their_own_logits(model_dir, photos, tmp_path, capsys):
    shutil.copytree(photos / "val", tmp_path / "fewer")
    shutil.rmtree(tmp_path / "fewer" / "blue_things")
    fewer = json.loads(run(capsys, model_dir, "--data", f"folder:{tmp_path}", "--split", "fewer", "--json"))
    assert (fewer["evaluated_classes"], fewer["model_classes"], fewer["count"]) == (2, 3, 6)
    every = run(capsys, model_dir, "--data", f"folder:{photos}")
    assert "classes:" not in every


def test_folders_of_no_class_are_one_sentence(imagenet_dir, named, capsys):
    data = named("n01440764", "n01443537", "roses")
    with pytest.raises(UserError, match="the data's class 'roses' is not among the model's 1000: expected names like"):
        run(capsys, imagenet_dir, "--data", f"folder:{data}")
