import dataclasses
import functools
import json

import pytest

from gcvit_flax import train
from gcvit_flax.cli import run_cli
from gcvit_flax.planning.options import parse_plan
from gcvit_flax.training.command_line import parse
from gcvit_flax.training.config_file import read_config_file
from gcvit_flax.training.train_config import TrainConfig

RECIPE = """\
data: folder:PHOTOS
learning-rate: 1e-3     # A string to PyYAML.
epochs: 3
image_size: [64, 96]
flip: false
clip_norm: null
optimizer: lion
"""


def test_options_go_over_the_file_and_the_file_over_the_preset(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    config = parse(["imagenet", "--config", str(path), "--epochs", "7", "--flip"])
    assert config.epochs == 7 and config.flip is True  # As typed,
    assert config.learning_rate == 1e-3 and config.image_size == (64, 96) and config.clip_norm is None  # in the file,
    assert config.data == "folder:PHOTOS" and config.optimizer == "lion" and isinstance(config.epochs, float)
    assert config.rand_augment == 9 and config.workdir == "runs/imagenet"  # and of the preset.
    assert parse(["imagenet", f"--config={path}", "--optimizer", "adamw"]).optimizer == "adamw"
    assert parse_plan([f"--config={path}", "--topology", "h100"]).config.optimizer == "lion"


def test_the_config_of_a_run_is_the_run_without_its_process(tmp_path):
    tuples = {
        "depths": (1, 1, 2, 1),
        "betas": (0.8, 0.9),
        "image_size": (32, 64),
        "mean": (0.5,) * 3,
        "std": (1.0,) * 3,
    }
    config = TrainConfig(data="digits", ema_decay=0.5, **tuples)
    process = {"resume": False, "coordinator": "host:1", "num_processes": 2, "process_id": 1}
    facts = {"class_names": ["a"], "training_examples": 3, "validation_examples": 1, "gcvit_flax_version": "0.1.0"}
    saved = dataclasses.asdict(dataclasses.replace(config, **process)) | facts | {"model": {}, "preprocessing": {}}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(saved))
    assert TrainConfig(**read_config_file(path)) == config
    assert parse(["--config", str(path), "--workdir", "runs/x"]) == dataclasses.replace(config, workdir="runs/x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learning_rat: 1", "has the unknown option 'learning_rat': did you mean learning_rate?"),
        ("xyzzy: 1", "has the unknown option 'xyzzy': train.py --help lists the options"),
        ("class_names: [a]", "has the unknown option 'class_names'"),
        ("epochs: many", "epochs must be a number, got 'many'"),
        ("epochs: true", "epochs must be a number, got True"),
        ("seed: 1.5", "seed must be an integer, got 1.5"),
        ("flip: 1", "flip must be true or false, got 1"),
        ("depths: [1, 2]", "depths must be a list of 4 integers or null, got [1, 2]"),
        ("image_size: big", "image_size must be an integer or a list of 2 integers or null, got 'big'"),
        ("crop_area: 0.5", "crop_area must be a list of 2 numbers, got 0.5"),
        ("mean: 0.5", "mean must be a list of numbers or null, got 0.5"),
        ("optimizer: adam", "optimizer must be adamw or lamb or lion or sgd, got 'adam'"),
        ("data: [a]", "data must be a string or null, got ['a']"),
        ("seed: -1", "seed must be at least 0, got -1"),
        ("a: [1", "line 1 is neither YAML nor JSON"),
        ("just words", "holds no options by name"),
        ("", "holds no options by name"),
        ("!!python/object:os.x {}", "is neither YAML nor JSON"),
        (b"\xff\xfe\x00", "cannot be read (it is not text)"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_a_file_that_does_not_fit_is_one_sentence(text, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SystemExit) as stop:
        run_cli(functools.partial(train.main, ["finetune", "--config", "my.yaml"]))
    errors = capsys.readouterr().err
    assert stop.value.code == 1 and errors.startswith("error: ") and errors.count("\n") == 1
    assert "my.yaml" in errors and expected in errors
    assert not (tmp_path / "runs").exists()
