"""Runs the README's indented commands and its Python as they are written, but for what needs a network or a GPU.

`make docs-check`. Beside the files that the README names lie small stand-ins of the same names, and training runs stop
after two steps.
"""

import re
import shlex
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import skimage.data
from PIL import Image
from small import ROOT

import gcvit_flax
from gcvit_flax.export import export_model
from gcvit_flax.weights.convert import convert

README = (ROOT / "README.md").read_text()
FIXTURES = ROOT / "tests" / "fixtures"
# Why a command is not run here.
ELSEWHERE = {
    "pip install": "changes the environment",
    "make train": "python train.py is run",
    "make test": "CI runs it",
    "python convert_keras_weights.py gcvit_xxtiny": "downloads",
    "python train.py flowers": "downloads",
    "python train.py imagenet": "needs ImageNet",
    "python train.py finetune --data folder:PHOTOS --init-from weights/gcvit_xxtiny --dtype": "needs a GPU",
}
CUT = {"train.py": ["--max-steps", "2"], "segmentation.py": ["--steps", "2", "--batch-size", "2"]}


def commands() -> list[str]:
    """What the README's indented lines have a reader type, without comments."""
    lines = [line.strip() for line in README.splitlines() if line.startswith("    ") and not line.startswith("     ")]
    return [re.split(r"\s+#", line)[0] for line in lines]


def reason(command: str) -> str | None:
    return next((why for start, why in ELSEWHERE.items() if command.startswith(start)), None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photos):
    """A checkout's top level, with what the README supposes to be there."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("train.py", "convert_keras_weights.py", "examples"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(photos, folder / "PHOTOS")
    shutil.copytree(photos / "val", folder / "more")
    for name in ("cat.jpg", "daisy.jpg", "rose.png"):
        Image.fromarray(skimage.data.chelsea()).save(folder / name)
    shutil.copy(FIXTURES / "micro.keras302.keras", folder / "my.keras")
    shutil.copy(FIXTURES / "micro.nvlabs.pth.tar", folder / "gcvit_tiny.pth")
    model = gcvit_flax.create_model("gcvit_xxtiny")
    params = gcvit_flax.init_params(model, jax.random.key(0))
    gcvit_flax.save_model(folder / "weights" / "gcvit_xxtiny", model, {"params": params})
    convert(FIXTURES / "micro.keras315.keras", folder / "runs" / "finetune" / "model")
    return folder


@pytest.mark.parametrize("command", [c for c in commands() if not reason(c)])
def test_command_of_the_readme(command, folder, environment):
    program, script, *arguments = shlex.split(command)
    assert program == "python", "say in ELSEWHERE why this is not run"
    arguments += next((cut for name, cut in CUT.items() if script.endswith(name) and "--help" not in arguments), [])
    if "--data" in arguments and script == "train.py":  # Each with a run folder of its own.
        arguments += ["--workdir", f"runs/{abs(hash(command))}"]
    done = subprocess.run(
        [sys.executable, script, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in re.findall(r"\S+\.png", command):
        if name not in ("rose.png",):
            assert np.asarray(Image.open(folder / name)).std() > 1


def test_what_is_not_run_is_still_in_the_readme():
    assert all(any(command.startswith(start) for command in commands()) for start in ELSEWHERE)


def test_python_of_the_readme(folder, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(folder)
    exec(blocks[0], {})
    if not (folder / "exported").exists():  # Where this test runs alone.
        export_model("runs/finetune/model", "exported", platforms=["cpu"])
    exec(blocks[1], {"images": np.zeros((2, 128, 128, 3), np.float32)})
