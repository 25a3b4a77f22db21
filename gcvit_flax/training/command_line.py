"""The command line of train.py: a preset, a file of options, then options generated from TrainConfig."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import tyro

from gcvit_flax.cli import program_name
from gcvit_flax.errors import UserError
from gcvit_flax.training.config_file import read_config_file
from gcvit_flax.training.presets import PRESET_HELP, PRESETS
from gcvit_flax.training.train_config import TrainConfig, TrainOptions

_DEFAULT_PRESET = "digits"
_OVERVIEW = """usage: {program} [PRESET] [--config FILE] [--option value ...]

{purpose} `{program} PRESET --help` lists a preset's options and defaults.
"""
_CONFIG_HELP = "The config.json of a run, or some options in YAML or JSON: over the preset's, under those typed here."

Options = TypeVar("Options", bound=TrainOptions)


def parse(arguments: Sequence[str]) -> TrainConfig:
    """The TrainConfig that a command line asks for; prints help or a usage error and exits where it asks for none."""
    purpose = "Trains a Global Context Vision Transformer."
    preset, options = parse_options(arguments, TrainOptions, program_name("train.py"), purpose)
    config = TrainConfig(**vars(options))
    return config if config.workdir else dataclasses.replace(config, workdir=f"runs/{preset}")


def parse_options(arguments: Sequence[str], kind: type[Options], program: str, purpose: str) -> tuple[str, Options]:
    """The preset that a command line names, and its options: those of train.py and what `kind` adds with defaults.

    Raises:
      UserError: (a ValueError) an unknown preset, or a file of options that cannot be used.
    """
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
    file = _config_file(arguments)
    defaults = vars(PRESETS[preset]) | (read_config_file(file) if file else {})
    # Not a TrainConfig at once: what that refuses, tyro would tell as a usage error of several lines.
    answers = tyro.cli(
        _form(kind(**defaults)),
        prog=f"{program} {preset}",
        description=PRESET_HELP[preset],
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    groups = [group for title, group in vars(answers).items() if title != "config"]
    return preset, kind(**{name: value for group in groups for name, value in vars(group).items()})


def _config_file(arguments: Sequence[str]) -> str | None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", nargs="?")  # That its value is missing, tyro tells.
    return parser.parse_known_args(arguments)[0].config


def _form(defaults: TrainOptions) -> type[Any]:
    """What tyro fills in: a field `config`, then one for each group of options, which is a section of the help."""
    config = Annotated[str | None, tyro.conf.arg(metavar="FILE", help=_CONFIG_HELP)]
    fields: list[tuple[str, Any, Any]] = [("config", config, None)]
    groups = [base for base in type(defaults).__mro__ if base.__bases__ == (object,)]
    for group in groups:
        values = {field.name: getattr(defaults, field.name) for field in dataclasses.fields(group)}
        title = group.__name__.removesuffix("Options").lower()
        fields.append((title, group, dataclasses.field(default=group(**values))))
    return dataclasses.make_dataclass("Options", fields)
