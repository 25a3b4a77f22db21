"""The console scripts, gcvit-train and its like: each is one of the package's programs by a name of its own."""

import sys
from collections.abc import Callable
from pathlib import Path

from gcvit_flax.errors import UserError, run_cli

_TRAINING_LIBRARIES = ("optax", "grain", "tensorflow_datasets", "array_record", "tyro", "tensorboardX")


def train() -> None:
    """gcvit-train: train.py."""

    def import_and_train():
        from gcvit_flax.training.cli import main

        main()

    run_cli(_with_extras(import_and_train))


def convert() -> None:
    """gcvit-convert: convert_keras_weights.py."""
    from gcvit_flax.weights.cli import main

    run_cli(main)


def predict() -> None:
    """gcvit-predict: python -m gcvit_flax.predict."""
    from gcvit_flax.predict import main

    run_cli(main)


def evaluate() -> None:
    """gcvit-evaluate: python -m gcvit_flax.evaluate."""
    from gcvit_flax.evaluate import main

    run_cli(_with_extras(main))


def export() -> None:
    """gcvit-export: python -m gcvit_flax.export."""
    from gcvit_flax.export import main

    run_cli(main)


def attention_maps() -> None:
    """gcvit-attention-maps: python -m gcvit_flax.attention_maps."""
    from gcvit_flax.attention_maps import main

    run_cli(main)


def program_name(otherwise: str) -> str:
    """What usage and help call the running program: the console script's name, or `otherwise`."""
    name = Path(sys.argv[0]).name.removesuffix(".exe")
    return name if name.startswith("gcvit-") else otherwise


def _with_extras(main: Callable[[], int | None]) -> Callable[[], int | None]:
    """`main`, with one sentence where a library of the extra [train] is missing."""

    def checked():
        try:
            return main()
        except ModuleNotFoundError as error:
            if error.name not in _TRAINING_LIBRARIES:
                raise
            raise UserError(f'{error.name} is not installed: pip install ".[train]" brings it') from error

    return checked
