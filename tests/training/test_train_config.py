import re

import pytest

from gcvit_flax.errors import UserError
from gcvit_flax.training.command_line import parse
from gcvit_flax.training.train_config import TrainConfig


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"optimizer": "sgd", "betas": (0.9, 0.99)}, "--betas has no effect here: --optimizer sgd has --momentum"),
        ({"optimizer": "lion", "momentum": 0.9}, "--momentum has no effect here: give --optimizer sgd with it"),
        ({"schedule": "constant", "final_learning_rate": 0.0}, "--final-learning-rate has no effect here"),
        ({"warmup_epochs": 0.0, "warmup_learning_rate": 1e-5}, "--warmup-learning-rate has no effect here"),
        ({"mix_off_epoch": 3.0}, "--mix-off-epoch has no effect here: give --mixup or --cutmix with it"),
        ({"ema_start": 3.0}, "--ema-start has no effect here: give --ema-decay with it, or leave it out"),
        ({"betas": (0.9, 1.0)}, "--betas must be at least 0 and below 1, got 0.9 1.0"),
    ],
)
def test_what_would_have_no_effect_is_refused(options, expected):
    with pytest.raises(UserError, match=expected):
        TrainConfig(**options)


def test_the_help_has_groups_and_flat_options(capsys):
    with pytest.raises(SystemExit):
        parse(["imagenet", "--help"])
    text = capsys.readouterr().out
    titles = re.findall(r"^\W*(\w+) options\W*$", text, re.MULTILINE)
    assert titles == ["run", "data", "network", "schedule", "optimizer", "loss", "augmentation", "device", "report"]
    assert text.index("optimizer options") < text.index("--betas ") < text.index("loss options")
    assert "--optimizer.betas" not in text and "--config FILE" in text


def test_every_option_is_typed_by_its_own_name():
    config = parse(["--betas", "0.8", "0.9", "--no-flip", "--depths", "1", "1", "2", "1", "--workers", "3"])
    assert config.betas == (0.8, 0.9) and config.flip is False and config.depths == (1, 1, 2, 1)
    assert config.workers == 3 and config.workdir == "runs/digits"
