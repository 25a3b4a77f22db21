"""The command line of train.py: a preset, then options generated from TrainConfig."""

import dataclasses
import logging
import sys
from collections.abc import Sequence

import tyro

from gcvit_flax.errors import UserError
from gcvit_flax.scripts import program_name
from gcvit_flax.training.config import TrainConfig
from gcvit_flax.training.presets import PRESET_HELP, PRESETS

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
    config = tyro.cli(
        TrainConfig,
        prog=f"{program} {preset}",
        description=PRESET_HELP[preset],
        default=PRESETS[preset],
        args=arguments,
    )
    return config if config.workdir else dataclasses.replace(config, workdir=f"runs/{preset}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses, then trains."""
    config = parse(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("gcvit_flax").setLevel(logging.INFO)
    # After parsing, so that --help and usage errors come at once.
    from gcvit_flax.devices import keep_compiled_programs
    from gcvit_flax.training.loop import train

    keep_compiled_programs()
    train(config)
