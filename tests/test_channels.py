"""Images of other channels than RGB, from the command line: training, prediction, evaluation, export."""

import dataclasses
import json

import numpy as np
import pytest
import tifffile
from etils import epath
from PIL import Image
from small import SMALL, TINY, TRAIN, random_variables

from gcvit_flax.data.datasets import open_data
from gcvit_flax.errors import UserError
from gcvit_flax.model.gcvit import create_model
from gcvit_flax.training import launch, setup
from gcvit_flax.training.train_config import TrainConfig
from gcvit_flax.weights.model_folder import load_model, save_model

pytestmark = pytest.mark.programs

STEPS = ["--max-steps", "2", "--crop-area", "0.5", "1"]


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A folder of two classes of five channels, told apart by one of them: TIFF files of 16 bits and .npy files."""
    root = tmp_path_factory.mktemp("scans")
    draw = np.random.default_rng(0).integers
    for label, name in enumerate(("land", "water")):
        (root / name).mkdir()
        for index in range(8):
            pixels = draw(0, 4000, (40, 48, 5), dtype=np.uint16)
            pixels[..., 3] += 8000 * label
            if index % 2:
                np.save(root / name / f"{index}.npy", pixels)
            else:
                tifffile.imwrite(root / name / f"{index}.tif", pixels, photometric="minisblack")
    return root


def test_five_channels_from_training_to_export(run_command, scans, tmp_path):
    options = ["finetune", "--data", f"folder:{scans}", "--in-channels", "5", "--workdir", "run", *SMALL, *STEPS]
    run_command(TRAIN, *options)
    model, variables = load_model(tmp_path / "run" / "model")
    assert model.config.in_channels == 5
    assert variables["params"]["patch_embed"]["proj"]["kernel"].shape == (3, 3, 5, 8)
    images = np.stack([tifffile.imread(path) for path in scans.rglob("*.tif")])
    np.testing.assert_allclose(model.preprocessing.mean, images.mean((0, 1, 2)) / 65535, rtol=0.3)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["preprocessing"]["mean"] == [
        *model.preprocessing.mean
    ]
    run_command(TRAIN, *options, "--max-steps", "3")  # Resumed.

    files = [scans / "water" / name for name in ("0.tif", "1.npy")]
    arguments = ["run/model", *files, "--json", "--heatmap", "heat"]
    lines = run_command("-m", "gcvit_flax.predict", *arguments).stdout.splitlines()
    assert [{entry["class"] for entry in json.loads(line)["predictions"]} for line in lines] == [{"land", "water"}] * 2
    run_command("-m", "gcvit_flax.attention_maps", "run/model", files[0], "attention.png")
    for name in ("heat/0.png", "heat/1.png", "attention.png"):
        picture = np.asarray(Image.open(tmp_path / name))
        assert picture.shape == (40, 48, 3) and picture.std() > 1
    data = ["--data", f"folder:{scans}", "--val-fraction", "0.5", "--json"]
    assert json.loads(run_command("-m", "gcvit_flax.evaluate", "run/model", *data).stdout)["count"] == 8
    assert "logits differ" in run_command("-m", "gcvit_flax.export", "run/model", "out", "--platforms", "cpu").stdout
    assert json.loads((tmp_path / "out" / "config.json").read_text())["input"]["shape"][3] == 5
    run_command("-m", "gcvit_flax.training.show_batch", "batch.png", *options)
    assert np.asarray(Image.open(tmp_path / "batch.png")).std() > 1


def test_photos_of_a_network_for_other_channels_are_refused(run_command, photos, tmp_path):
    model = create_model(TINY, in_channels=5)
    save_model(tmp_path / "m", model, random_variables(model.config))
    photo = next(photos.rglob("*.jpg"))
    for arguments in (["predict", "m", photo], ["attention_maps", "m", photo, "x.png"]):
        error = run_command("-m", f"gcvit_flax.{arguments[0]}", *arguments[1:], status=1).stderr
        assert "has 3 channels, expected 5" in error and "Traceback" not in error
    error = run_command(
        TRAIN, "finetune", "--data", f"folder:{photos}", "--in-channels", "5", *SMALL, *STEPS, status=1
    ).stderr
    assert "has 3 channels, expected 5" in error and "Traceback" not in error


def test_statistics_that_are_given_are_not_measured(tmp_path):
    options = {"in_channels": 1, "image_size": 32, "mean": (0.25,), "std": (0.125,)}
    config = TrainConfig(data="digits", batch_size=8, **options)
    run = launch._make_run(epath.Path(tmp_path), config, open_data("digits"), None)
    assert (run.model.preprocessing.mean, run.model.preprocessing.std) == ((0.25,), (0.125,))
    with pytest.raises(UserError, match="--mean and --std have 1 numbers, and the images 3 channels: give one for"):
        setup.build_model(dataclasses.replace(config, in_channels=3), ("a", "b"))
    with pytest.raises(UserError, match="--mean and --std go together"):
        dataclasses.replace(config, std=None)
    with pytest.raises(UserError, match=r"--std must be positive, got 0\.0"):
        dataclasses.replace(config, std=(0.0,))


def test_gray_from_weights_for_rgb(run_command, photos, tmp_path):
    model = create_model(TINY)
    save_model(tmp_path / "m", model, random_variables(model.config))
    run_command(
        *(TRAIN, "finetune", "--data", f"folder:{photos}", "--init-from", "m", "--in-channels", "1"),
        *("--batch-size", "4", "--workdir", "gray", *STEPS),
    )
    assert load_model(tmp_path / "gray" / "model")[0].config.in_channels == 1
    run_command(
        *(TRAIN, "finetune", "--data", f"folder:{photos}", "--init-from", "gray/model"),
        *("--batch-size", "4", "--workdir", "again", *STEPS),
    )
    measured, again = (load_model(tmp_path / name / "model")[0].preprocessing for name in ("gray", "again"))
    assert again == measured
    photo = next(photos.rglob("*.jpg"))
    run_command("-m", "gcvit_flax.predict", "gray/model", photo)
