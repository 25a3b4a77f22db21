import os
import shutil
from pathlib import Path

import jax
import pytest
import skimage.data
from documents import blocks
from PIL import Image
from small import ROOT

import gcvit_flax
from gcvit_flax.weights.convert import convert

FIXTURES = ROOT / "tests" / "fixtures"


@pytest.fixture(scope="session")
def compiled_programs(compiled_programs) -> Path:
    """What JAX_COMPILATION_CACHE_DIR names, which CI keeps from run to run, or else the tests' cache."""
    return Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or compiled_programs)


@pytest.fixture(scope="session")
def folder(tmp_path_factory, photos) -> Path:
    """A checkout's top level, with small stand-ins for the files that the documents name."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("train.py", "convert_keras_weights.py", "examples"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(photos, folder / "PHOTOS")
    shutil.copytree(photos / "val", folder / "more")
    for name in ("cat.jpg", "daisy.jpg", "rose.png"):
        Image.fromarray(skimage.data.chelsea()).save(folder / name)
    shutil.copy(FIXTURES / "micro.keras302.keras", folder / "my.keras")
    shutil.copy(FIXTURES / "micro.nvlabs.pth.tar", folder / "gcvit_tiny.pth")
    (recipe,) = blocks(ROOT / "docs" / "training.md", "yaml")
    (folder / "recipe.yaml").write_text(f"{recipe}max_steps: 2\nbatch_size: 8\ndepths: [1, 1, 1, 1]\n")
    model = gcvit_flax.create_model("gcvit_xxtiny")
    params = gcvit_flax.init_params(model, jax.random.key(0))
    gcvit_flax.save_model(folder / "weights" / "gcvit_xxtiny", model, {"params": params})
    convert(FIXTURES / "micro.keras315.keras", folder / "runs" / "finetune" / "model")
    return folder
