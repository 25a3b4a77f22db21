"""The command line of train.py: a preset, then options generated from TrainConfig."""

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import tyro

from gcvit_flax.cli import program_name
from gcvit_flax.errors import UserError
from gcvit_flax.training.presets import PRESET_HELP, PRESETS
from gcvit_flax.training.train_config import TrainConfig, TrainOptions

_DEFAULT_PRESET = "digits"
_OVERVIEW = """usage: {program} [PRESET] [--option value ...]

{purpose} `{program} PRESET --help` lists a preset's options and defaults.
"""

Options = TypeVar("Options", bound=TrainOptions)


def parse(arguments: Sequence[str]) -> TrainConfig:
    """The TrainConfig that a command line asks for; prints help or a usage error and exits where it asks for none."""
    purpose = "Trains a Global Context Vision Transformer."
    preset, options = parse_options(arguments, TrainOptions, program_name("train.py"), purpose)
    config = TrainConfig(**vars(options))
    return config if config.workdir else dataclasses.replace(config, workdir=f"runs/{preset}")


def parse_options(arguments: Sequence[str], kind: type[Options], program: str, purpose: str) -> tuple[str, Options]:
    """The preset that a command line names, and its options: those of train.py and what `kind` adds with defaults."""
    arguments = list(arguments)
    if arguments[:1] in (["--help"], ["-h"]):
        print(_OVERVIEW.format(program=program, purpose=purpose))
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
        kind,
        prog=f"{program} {preset}",
        description=PRESET_HELP[preset],
        default=kind(**vars(PRESETS[preset])),
        args=arguments,
    )
    return preset, options
