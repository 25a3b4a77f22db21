"""The command line of train.py: a preset, then options generated from TrainConfig."""

import dataclasses
from collections.abc import Sequence

import tyro

from gcvit_flax.cli import program_name
from gcvit_flax.errors import UserError
from gcvit_flax.training.presets import PRESET_HELP, PRESETS
from gcvit_flax.training.train_config import TrainConfig, TrainOptions

_DEFAULT_PRESET = "digits"
_OVERVIEW = """usage: {program} [PRESET] [--option value ...]

Trains a Global Context Vision Transformer. `{program} PRESET --help` lists a preset's options and defaults.
"""


def parse(arguments: Sequence[str]) -> TrainConfig:
    """The TrainConfig that a command line asks for; prints help or a usage error and exits where it asks for none."""
    arguments, program = list(arguments), program_name("train.py")
    if arguments[:1] in (["--help"], ["-h"]):
        print(_OVERVIEW.format(program=program))
        for name in PRESETS:
            default = " (default)" if name == _DEFAULT_PRESET else ""
            print(f"{name}{default}: {PRESET_HELP[name].rstrip()}\n")
        print(f"The options, with the defaults of {_DEFAULT_PRESET}:\n")
    named = bool(arguments) and not arguments[0].startswith("-")
    preset = arguments.pop(0) if named else _DEFAULT_PRESET
    if preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}: expected one of {', '.join(PRESETS)}")
    # Not a TrainConfig at once: what that refuses, tyro would tell as a usage error of several lines.
    options = tyro.cli(
        TrainOptions,
        prog=f"{program} {preset}",
        description=PRESET_HELP[preset],
        default=TrainOptions(**vars(PRESETS[preset])),
        args=arguments,
    )
    config = TrainConfig(**vars(options))
    return config if config.workdir else dataclasses.replace(config, workdir=f"runs/{preset}")
