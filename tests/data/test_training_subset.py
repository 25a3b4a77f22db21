"""Shares and shots of a training part, and the command line that asks for them."""

import functools
import json

import numpy as np
import pytest

from gcvit_flax import train
from gcvit_flax.cli import run_cli
from gcvit_flax.data.datasets import open_data
from gcvit_flax.data.sources import ListSource
from gcvit_flax.data.training_subset import TrainingSubset
from gcvit_flax.errors import UserError

NAMES = ("ash", "birch", "oak")
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(3), (40, 10, 3)))
SOURCE = ListSource(LABELS, LABELS, [str(index) for index in range(len(LABELS))])


def drawn(**options) -> list[int]:
    """The positions in SOURCE of a subset's examples."""
    subset = TrainingSubset(**options).of(SOURCE, NAMES)
    assert [subset[index][1] for index in range(len(subset))] == subset.labels.tolist()
    return [int(subset[index][2]) for index in range(len(subset))]


def test_each_class_gives_its_share_or_its_shots():
    assert TrainingSubset().of(SOURCE, NAMES) is SOURCE
    for options, counts in (
        ({"fraction": 0.5}, [20, 5, 2]),
        ({"fraction": 1.0}, [40, 10, 3]),
        ({"shots": 3}, [3, 3, 3]),
    ):
        indices = drawn(**options)
        assert np.bincount(LABELS[indices]).tolist() == counts and indices == sorted({*indices})


def test_small_subsets_are_in_larger_ones_of_their_seed():
    assert {*drawn(shots=1)} < {*drawn(shots=3)} < {*drawn(fraction=1.0)}
    assert {*drawn(fraction=0.2)} < {*drawn(fraction=0.5)}
    assert drawn(shots=2) == drawn(shots=2) != drawn(shots=2, seed=1)


def test_classes_without_enough_images_are_named():
    with pytest.raises(UserError, match=r"--train-fraction 0.1 leaves none .* class 'oak', which has 3: raise it, or"):
        drawn(fraction=0.1)
    with pytest.raises(UserError, match=r"--shots 4 is more than the training images of class 'oak', which has 3: low"):
        drawn(shots=4)


def test_the_validation_part_stays_whole(photos):
    for spec, validation in ((f"folder:{photos}", 9), ("digits", 179), (f"folder:{photos / 'train'}", 3)):
        data, whole = open_data(spec, subset=TrainingSubset(shots=2)), open_data(spec)
        assert len(data.train) == 2 * len(data.class_names)
        assert len(data.validation) == len(whole.validation) == validation
        labels = [data.train[index][1] for index in range(len(data.train))]
        assert labels == data.train.labels.tolist() and {*np.bincount(labels)} == {2}
        everything = {whole.train[index][2] for index in range(len(whole.train))}
        assert {data.train[index][2] for index in range(len(data.train))} < everything


@pytest.mark.programs
def test_from_the_command_line(finetune, photos, run_command, tmp_path):
    """Config and output say how many images there are; the run resumes with these alone."""
    few = [*finetune, "--shots", "4", "--repeated-augmentation", "2", "--crop-interpolation", "random", "--epochs", "2"]
    process = run_command(*few)
    assert f"data: 12 training and 9 validation images (folder:{photos}, --shots 4)" in process.stdout
    config = json.loads((tmp_path / "runs/finetune/config.json").read_text())
    assert (config["training_examples"], config["shots"], config["subset_seed"]) == (12, 4, 0)
    assert "steps 1 to 6 of 6" in process.stdout  # Of four images each: repeats make no epoch longer.
    assert "this run is done" in run_command(*few).stdout
    process = run_command(*few, "--subset-seed", "1", status=1)
    assert "(subset_seed was 0 and is now 1): use the same options (--subset-seed 0)" in process.stderr
    process = run_command(*few, "--data", f"folder:{photos}[val]", "--shots", "2", status=1)
    assert "data_parts was '' and is now 'val'" in process.stderr
    half = ["--data", "digits", "--train-fraction", "0.5", "--max-steps", "1", "--workdir", "half"]
    process = run_command(*finetune, *half)
    assert "data: 809 training and 179 validation images (digits, --train-fraction 0.5)" in process.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--shots", "9"), "--shots 9 is more than the training images of class 'blue_things', which has 8: lower it"),
        (("--train-fraction", "0.05"), "--train-fraction 0.05 leaves none of the training images of class 'blue_thi"),
        (("--train-fraction", "0"), "--train-fraction must be above 0 and at most 1, got 0.0"),
        (("--train-fraction", "1.1"), "--train-fraction must be above 0 and at most 1, got 1.1"),
        (("--shots", "0"), "--shots must be positive, got 0"),
        (("--shots", "2", "--train-fraction", "0.5"), "--train-fraction and --shots both choose the training images"),
        (("--subset-seed", "3"), "--subset-seed has no effect here: give --train-fraction or --shots with it"),
        (("--repeated-augmentation", "0"), "--repeated-augmentation must be positive, got 0"),
        (
            ("--squash", "--crop-interpolation", "random"),
            "--crop-interpolation has no effect here: --squash crops noth",
        ),
    ],
)
def test_mistakes_are_one_sentence(finetune, arguments, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run_cli(functools.partial(train.main, [*map(str, finetune[1:]), *arguments]))
    errors = capsys.readouterr().err
    assert stop.value.code == 1 and errors.startswith("error: ") and errors.count("\n") == 1 and expected in errors
    assert not (tmp_path / "runs/finetune/config.json").exists()
