"""python -m gcvit_flax.embed in this process: the features, their order, and what is left out."""

import functools
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from small import TINY, full_disk, random_variables

import gcvit_flax
from gcvit_flax import devices, embed
from gcvit_flax.cli import run_cli


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embed") / "model"
    gcvit_flax.save_model(folder, gcvit_flax.create_model(TINY), random_variables(TINY))
    return folder


@pytest.fixture(autouse=True)
def no_lasting_settings(monkeypatch):
    monkeypatch.setattr(devices, "enable_compilation_cache", lambda: None)


@pytest.fixture(autouse=True)
def images(tmp_path, monkeypatch) -> list[str]:
    """Five images in two folders below the current one."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    paths = ["cats/1.png", "cats/2.png", "dogs/1.png", "dogs/2.png", "dogs/3.png"]
    for path in map(Path, paths):
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    return paths


@pytest.fixture
def command(capsys):
    """Runs the command and gives (exit status, stdout, stderr)."""

    def run(*arguments) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            run_cli(functools.partial(embed.main, [str(argument) for argument in arguments]))
        return stop.value.code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("options", "shape", "shown", "tolerance"),
    [
        ([], (64,), "64", 1e-5),
        (["--maps", "1"], (4, 4, 16), "4 x 4 x 16", 1e-5),
        (["--dtype", "bfloat16"], (64,), "64", 2e-2),
    ],
)
def test_features_have_the_order_and_names_of_the_images(model_dir, images, command, options, shape, shown, tolerance):
    Path("cats/1_broken.jpg").write_text("not a picture")
    status, output, errors = command(model_dir, "cats", "dogs/*", "out.npz", "--batch-size", "2", *options)
    assert status == 1 and output == f"out.npz: 5 of 6 images, {shown} features of each\n"
    assert errors == "error: cats/1_broken.jpg: not an image that Pillow can read; replace or remove it\n"

    model, variables = gcvit_flax.load_model(model_dir)
    with np.load("out.npz") as arrays:
        assert {*arrays} == {"names", "features"}
        assert arrays["names"].tolist() == images
        features = arrays["features"]
    assert features.shape == (5, *shape) and features.dtype == np.float32
    method = (lambda network, x: network.features(x)[1]) if "--maps" in options else "embed"
    expected = jax.jit(lambda x: model.apply(variables, x, method=method))(gcvit_flax.preprocess(images, model))
    error = np.abs(features - expected).max() / np.abs(expected).max()
    assert error <= tolerance and (error > 1e-4) == ("bfloat16" in options)
    assert np.abs(features[0] - features[1]).max() > 1e-3 * np.abs(features).max(), "this test sees no wrong order"
    assert command(model_dir, "dogs", "out.npz", *options)[0] == 0, "an earlier file is replaced"
    assert np.load("out.npz")["names"].tolist() == images[2:]


def test_bad_input_is_one_sentence_and_writes_nothing(model_dir, images, command):
    Path("words.jpg").write_text("not a picture")
    Path("folder.npz").mkdir()
    for arguments, status, expected in (
        ((model_dir, *images), 1, "the file to write, whose name must end in .npz, got dogs/3.png"),
        ((model_dir, "cats", "no/out.npz"), 1, "no/out.npz cannot be written: name a file in a folder that exists"),
        ((model_dir, "cats", "folder.npz"), 1, "folder.npz cannot be written"),
        ((model_dir, "fish", "out.npz"), 1, "none of the 1 images can be read, and out.npz is not written"),
        ((model_dir, "words.jpg", "out.npz"), 1, "none of the 1 images can be read, and out.npz is not written"),
        (("cats", "dogs", "out.npz"), 1, "cats is not a model folder"),
        ((model_dir, "cats", "out.npz", "--maps", "4"), 2, "invalid choice: 4"),
        ((model_dir, "cats", "out.npz", "--batch-size", "0"), 2, "--batch-size must be at least 1"),
    ):
        found, output, errors = command(*arguments)
        assert (found, output) == (status, "") and expected in errors and "Traceback" not in errors
    with full_disk():
        status, _, errors = command(model_dir, "cats", "out.npz", "--maps", "0")
    assert status == 1 and errors == "error: out.npz cannot be written (File too large): choose another place\n"
    assert not [*Path().glob("out*")]


def test_features_that_are_not_finite_are_reported(images, command):
    variables = random_variables(TINY)
    variables["params"]["norm"]["bias"][0] = np.nan
    gcvit_flax.save_model("model", gcvit_flax.create_model(TINY), variables)
    status, _, errors = command("model", "cats", "out.npz")
    assert status == 1 and "gives features that are not finite: its parameters are damaged" in errors
    assert not Path("out.npz").exists()
