"""Every program that takes a model folder takes the name of published weights, here from a cache that has them."""

import json
import shutil
from pathlib import Path

import pytest
from small import ROOT, TINY, TRAIN, random_variables

from gcvit_flax.model.gcvit import create_model
from gcvit_flax.weights.download import place
from gcvit_flax.weights.model_folder import load_model, save_model
from gcvit_flax.weights.published import PUBLISHED

pytestmark = pytest.mark.programs

NAME = "gcvit_1k_tiny"  # The file's name.
CONVERT = ROOT / "convert_keras_weights.py"
CLASSES = ["blue_things", "green_things", "red_things"]


@pytest.fixture
def cache(tmp_path) -> Path:
    """A cache in which the published folder is a tiny network; nothing listens where a download would go."""
    folder = place(PUBLISHED["gcvit_tiny"], tmp_path / "cache" / "gcvit_flax").with_name("model_1")
    folder.parent.mkdir(parents=True)
    save_model(folder, create_model(TINY), random_variables(TINY), class_names=CLASSES)
    return tmp_path / "cache"


def test_programs_take_a_name(run_command, cache, photos, tmp_path):
    options = {"XDG_CACHE_HOME": str(cache), "https_proxy": "http://127.0.0.1:1"}
    photo = next(photos.rglob("*.jpg"))
    lines = run_command("-m", "gcvit_flax.predict", NAME, photo, "--json", **options).stdout
    assert {entry["class"] for entry in json.loads(lines)["predictions"]} == {*CLASSES}
    data = ["--data", f"folder:{photos}", "--json"]
    assert json.loads(run_command("-m", "gcvit_flax.evaluate", NAME, *data, **options).stdout)["count"] == 9
    run_command("-m", "gcvit_flax.attention_maps", NAME, photo, "maps.png", **options)
    run_command("-m", "gcvit_flax.export", NAME, "exported", "--platforms", "cpu", **options)
    error = run_command(CONVERT, NAME, "out.pth", "--to", "timm", status=1, **options).stderr
    assert "timm cannot express this model" in error  # It has looked into the folder.
    assert "32x32 px" in run_command("-m", "gcvit_flax.summary", NAME, **options).stdout
    start = ["finetune", "--data", f"folder:{photos}", "--batch-size", "4", "--max-steps", "1"]
    run_command(TRAIN, *start, "--init-from", NAME, "--workdir", "run", **options)
    assert load_model(tmp_path / "run" / "model")[0].config.embed_dim == TINY.embed_dim

    shutil.rmtree(cache)
    error = run_command("-m", "gcvit_flax.predict", NAME, photo, status=1, **options).stderr
    assert "huggingface.co" in error and "check the network" in error and error.count("\n") == 1
