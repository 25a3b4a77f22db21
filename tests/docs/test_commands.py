"""Runs the commands and the Python of all documents as they are written, and reads the options of what cannot run here.

`make docs-check`. Small stand-ins lie where the documents name files, and training runs stop after two steps of
eight images, with one block at each level where they start afresh. A command in two documents runs once.
"""

import contextlib
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tyro
from documents import DOCUMENTS, blocks, commands, commands_of_tables
from PIL import Image
from small import ROOT

from benchmarks import accelerator, compare, compare_input
from benchmarks.many_files import ManyFiles
from gcvit_flax.export import export_model
from gcvit_flax.planning.options import parse_plan
from gcvit_flax.training.command_line import parse
from gcvit_flax.weights.published import PUBLISHED

pytestmark = pytest.mark.docs

# How a command starts, and why it is not run here.
ELSEWHERE = {
    "git clone": "downloads",
    "pip install": "changes the environment",
    "make": "CI runs the tests, and python train.py is run",
    "python convert_keras_weights.py gcvit_xxtiny": "downloads",
    "python train.py flowers": "downloads",
    "python train.py imagenet": "needs ImageNet",
    "python train.py finetune --data folder:PHOTOS --init-from weights/gcvit_xxtiny --dtype": "needs a GPU",
    "python -m benchmarks.compare --peer": "needs timm",
    "python -m benchmarks.compare_input": "needs torchvision and TensorFlow",
    "python -m benchmarks.many_files": "makes a million files",
    "python -m venv": "changes the environment",
    ".venv-input/bin/pip": "changes the environment",
    "python -m benchmarks.input_pipeline": "measures for minutes",
    "python -m benchmarks.accelerator": "measures for minutes",
    "python -m gcvit_flax.evaluate gs://": "needs a bucket",
    "python -m gcvit_flax.evaluate weights/gcvit_xxtiny --data folder:imagenette2-320": "needs Imagenette",
    "python -m gcvit_flax.evaluate weights/gcvit_xxtiny --data folder:DATA": "needs ImageNet-A",
    "python -m gcvit_flax.plan": "needs libtpu, and minutes",
    "export": "for Cloud TPU",
    "gcloud": "needs Cloud TPU",
    "python examples/cloud_tpu/supervise.py": "needs Cloud TPU",
    "docker": "needs Docker",
    "mkdir -p ~/tensorflow_datasets": "needs ImageNet",
    "cp ILSVRC2012": "needs ImageNet",
    "tfds build": "needs TensorFlow",
}
CUT = {"train.py": ["--max-steps", "2"], "segmentation.py": ["--steps", "2", "--batch-size", "2"]}
SHALLOW = ["--depths", "1", "1", "1", "1"]
PROGRAMS_OF_TRAINING = ("train.py", "benchmarks.input_pipeline")


def reason(command: str) -> str | None:
    return next((why for start, why in ELSEWHERE.items() if command.startswith(start)), None)


# By the first document that has each.
RUN = {command: document for command, document in commands().items() if not reason(command)}
NOT_RUN = [command for command in [*commands(), *commands_of_tables()] if command not in RUN]


@pytest.mark.parametrize("document", dict.fromkeys(RUN.values()))
def test_commands(document, folder, environment, subtests):
    """In turn, since a document's commands build on each other."""
    for command in (command for command, name in RUN.items() if name == document):
        with subtests.test(command):
            follow(command, folder, environment)


def follow(command: str, folder: Path, environment: dict[str, str]) -> None:
    if command.startswith("for "):  # The recipe ends these runs.
        run(["bash", "-c", re.sub(r"\bpython\b", shlex.quote(sys.executable), command)], folder, environment)
        return
    program, script, *arguments = shlex.split(command)
    assert program == "python", "say in ELSEWHERE why this is not run"
    arguments += next((cut for name, cut in CUT.items() if script.endswith(name) and "--help" not in arguments), [])
    if script == "train.py" and "--init-from" not in arguments and "--help" not in arguments:
        arguments += SHALLOW
    if "--data" in arguments and script == "train.py":  # Each with a run folder of its own.
        arguments += ["--workdir", f"runs/{[*RUN].index(command)}"]
    run([sys.executable, script, *arguments], folder, environment)
    for name in re.findall(r"\S+\.png", command):
        assert np.asarray(Image.open(folder / name)).std() > 1


def run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]


HAS_OPTIONS = r"python (-m (benchmarks|gcvit_flax\.plan)|\S*\.py)|docker run"


@pytest.mark.parametrize("command", [c for c in NOT_RUN if re.search(HAS_OPTIONS, c)], ids=str)
def test_options_of_a_command_that_is_not_run(command):
    """Training of measured results, for a start; unknown options and values end in an error."""
    words = [word for word in shlex.split(command) if word != "-m"]
    start = next(i for i, word in enumerate(words) if word == "python" or word.startswith("gcvit-train:"))
    program, *arguments = words[start + 1 :] if words[start] == "python" else ["train.py", *words[start + 1 :]]
    if program == "examples/cloud_tpu/supervise.py":
        own, program = arguments[: arguments.index("--")], "train.py"
        arguments = arguments[len(own) + 1 :]
        assert {*own[::2]} <= {*re.findall(r'"(--[a-z-]+)"', (ROOT / "examples/cloud_tpu/supervise.py").read_text())}
    if program in PROGRAMS_OF_TRAINING:
        parse(arguments)
    elif program == "gcvit_flax.plan":
        parse_plan(arguments)
    elif program == "benchmarks.compare":
        tyro.cli(compare.Comparison, args=arguments)
    elif program == "benchmarks.accelerator":
        tyro.cli(accelerator.Accelerator, args=arguments)
    elif program == "benchmarks.compare_input":
        tyro.cli(compare_input.Comparison, args=arguments)
    elif program == "benchmarks.many_files":
        tyro.cli(ManyFiles, args=arguments)
    else:
        assert program == "convert_keras_weights.py" and arguments[0] in PUBLISHED


def test_every_reason_is_of_a_command_that_a_document_has():
    assert [start for start in ELSEWHERE if not any(command.startswith(start) for command in commands())] == []


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if blocks(d, "python")], ids=lambda path: path.stem)
def test_python(document, folder, monkeypatch):
    monkeypatch.chdir(folder)
    if not (folder / "exported").exists():  # As predicting.md has written before.
        export_model("runs/finetune/model", "exported", platforms=["cpu"])
    printed = io.StringIO()
    for block in blocks(document, "python"):
        with contextlib.redirect_stdout(printed):
            exec(block, {})
    if document.stem == "performance":
        check_operations(printed.getvalue())


def check_operations(printed: str) -> None:
    """The README's table has what performance.md's program counts; other versions of JAX count a little differently."""
    counted = {name: float(value) for name, value in re.findall(r"(\w+): ([\d.]+)", printed)}
    table = re.findall(r"^\| `(\w+)` \|.*\| ([\d.]+) \| [^|]+ \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert counted == {name: pytest.approx(float(value), rel=0.01, abs=0.1) for name, value in table}
    assert len(table) == 10
