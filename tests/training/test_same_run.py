import dataclasses
import json

import pytest
from etils import epath

from gcvit_flax.errors import UserError
from gcvit_flax.training.same_run import check_same_run
from gcvit_flax.training.setup import rebuild_model
from gcvit_flax.training.train_config import FREE_ON_RESUME, TrainConfig

WORKDIR = epath.Path("runs/mine")


def facts(**changes) -> dict:
    data = {"class_names": ["ash", "oak"], "training_examples": 20, "validation_examples": 4}
    return {**dataclasses.asdict(TrainConfig(data="folder:my photos")), **data, **changes}


def check(saved: dict, now: dict) -> None:
    check_same_run(WORKDIR, json.loads(json.dumps(saved)), now, FREE_ON_RESUME)


def refusal(saved: dict, now: dict) -> str:
    with pytest.raises(UserError) as error:
        check(saved, now)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_says_where_and_with_how_much_memory_may_change():
    check(facts(), facts(data="folder:/mnt/photos", remat=True, accumulation_steps=4, keep=7))


@pytest.mark.parametrize(
    ("before", "now", "change", "typed"),
    [
        ({"depths": (2, 2, 6, 2)}, {}, "depths was [2, 2, 6, 2] and is now None", "--depths 2 2 6 2"),
        ({"flip": False}, {}, "flip was False and is now True", "--no-flip"),
        ({"clip_norm": None}, {}, "clip_norm was None and is now 5.0", "--clip-norm None"),
        ({}, {"init_from": "other model"}, "init_from was None and is now 'other model'", "--init-from None"),
        ({"init_from": "a model"}, {}, "init_from was 'a model' and is now None", "--init-from 'a model'"),
        (
            {},
            {"validation_examples": 5},
            "validation_examples was 4 and is now 5",
            "--data 'folder:my photos' as it was",
        ),
        ({}, {"class_names": ["ash"]}, "the data had 2 classes and now has 1", "--data 'folder:my photos' as it was"),
        ({}, {"class_names": ["ash", "elm"]}, "the data's class 1 was 'oak' and is now 'elm'", "as it was"),
    ],
)
def test_the_refusal_says_what_to_type(before, now, change, typed):
    message = refusal(facts(**before), facts(**now))
    assert f"({change}): use the same options (" in message and f"{typed}) or another --workdir;" in message
    assert message.endswith("--no-resume would delete that run")


def test_an_option_that_an_older_version_lacked_had_its_default():
    older = facts()
    for name in ("mixup", "ema_decay", "crop_area", "val_fraction", "validation_examples"):
        del older[name]
    check(older, facts())
    assert "(mixup was 0.0 and is now 0.8): use the same options (--mixup 0.0)" in refusal(older, facts(mixup=0.8))


def test_other_parts_of_the_data_are_refused():
    first = facts(data="tfds:pets[train[:50%]]", data_parts="train[:50%]")
    check(first, facts(data="tfds:moved/pets[train[:50%]]", data_parts="train[:50%]"))
    expected = "(data_parts was 'train[:50%]' and is now 'train[50%:]'): use the same options ("
    message = refusal(first, facts(data="tfds:pets[train[50%:]]", data_parts="train[50%:]"))
    assert expected in message and "--data 'tfds:pets[train[:50%]]' as it was" in message
    older = facts()  # Which knew no parts.
    check(older, facts(data_parts=""))
    assert "data_parts was '' and is now 'val'" in refusal(older, facts(data_parts="val"))


@pytest.mark.parametrize(
    ("before", "now", "typed"),
    [
        ({"train_fraction": 0.1}, {"train_fraction": 0.2}, "--train-fraction 0.1"),
        ({"shots": 5}, {}, "--shots 5"),
        ({"shots": 5}, {"shots": 5, "subset_seed": 1}, "--subset-seed 0"),
        ({"repeated_augmentation": 3}, {}, "--repeated-augmentation 3"),
        ({}, {"crop_interpolation": "random"}, "--crop-interpolation bicubic"),
    ],
)
def test_other_images_or_crops_are_refused(before, now, typed):
    assert f"use the same options ({typed})" in refusal(facts(**before), facts(**now))


def test_an_option_that_this_version_lacks():
    check(facts(new_head=False, distill=None, noise=0.0), facts())
    message = refusal(facts(distill="teacher", model={}, gcvit_flax_version="9.9"), facts())
    assert "does not have (distill 'teacher'): resume it with version 9.9" in message and "--no-resume" not in message


@pytest.mark.parametrize("saved", [{}, {"model": {"dim": 3}, "preprocessing": {}}, {"model": 3, "preprocessing": {}}])
def test_a_network_that_this_version_does_not_have(saved):
    with pytest.raises(UserError, match=r"config.json of the run in runs/mine describes no network .* version 9.9"):
        rebuild_model(TrainConfig(), {"gcvit_flax_version": "9.9", **saved}, WORKDIR)
