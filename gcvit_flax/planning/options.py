"""The command line of gcvit_flax.plan: train.py's, and what to compile for."""

import dataclasses
from collections.abc import Sequence

from gcvit_flax.cli import program_name
from gcvit_flax.errors import UserError
from gcvit_flax.training.command_line import parse_options
from gcvit_flax.training.train_config import TrainConfig, TrainOptions


@dataclasses.dataclass(frozen=True)
class TargetOptions:
    """What is planned for; the comment above a field is its help."""

    # Devices to compile for: a slice of Cloud TPUs such as v5e:4x8 or v4:2x2x4, or h100, h200 or h100:8.
    topology: str | None = None
    # Training images, for the days that the epochs take. Default: as many as the preset's data has.
    examples: int | None = None
    # Look for the largest batch that fits, which compiles the step once or twice more.
    largest_batch: bool = True
    # Print one JSON object.
    json: bool = False


@dataclasses.dataclass(frozen=True)
class PlanOptions(TargetOptions, TrainOptions):
    """The options of the plan and of train.py."""


@dataclasses.dataclass(frozen=True)
class PlanRequest:
    """What is to be planned: a training run, by its preset and options, on a topology."""

    preset: str
    config: TrainConfig
    topology: str
    examples: int | None
    largest_batch: bool
    json: bool


def parse_plan(arguments: Sequence[str]) -> PlanRequest:
    """What a command line asks for; prints help or a usage error and exits where it asks for none.

    Raises:
      UserError: (a ValueError) an option that is out of range, missing, or without a meaning for a plan.
    """
    purpose = "Compiles the training step for devices that need not be there, and says what it takes."
    preset, options = parse_options(arguments, PlanOptions, program_name("python -m gcvit_flax.plan"), purpose)
    training = TrainConfig(**{field.name: getattr(options, field.name) for field in dataclasses.fields(TrainOptions)})
    if options.topology is None:
        raise UserError("--topology is missing: give the devices, such as --topology v5e:4x8 or --topology h100")
    if training.devices is not None:
        raise UserError(f"--devices {training.devices} is for training here: --topology says how many there will be")
    if options.examples is not None and options.examples < 1:
        raise UserError(f"--examples must be at least 1, got {options.examples}")
    return PlanRequest(preset, training, options.topology, options.examples, options.largest_batch, options.json)
