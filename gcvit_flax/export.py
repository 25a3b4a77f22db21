"""Writes a model as StableHLO, which runs without this package: `python -m gcvit_flax.export MODEL_DIR OUT`."""

import argparse
import logging
from collections.abc import Sequence

import jax

from gcvit_flax.cli import MODEL_HELP, program_name, run_cli
from gcvit_flax.errors import UserError
from gcvit_flax.export_stablehlo import PLATFORMS, PROGRAM_NAME, TOLERANCES, export_model
from gcvit_flax.weights.folder_config import FOLDER_CONFIG_NAME

_DYNAMIC = "dynamic"


def main(arguments: Sequence[str] | None = None) -> None:
    """Exports, and prints what was written and how it was checked."""
    parser = argparse.ArgumentParser(prog=program_name("python -m gcvit_flax.export"), description=__doc__)
    parser.add_argument("model", metavar="MODEL_DIR", help=MODEL_HELP)
    parser.add_argument("out", metavar="OUT", help=f"the folder to write {PROGRAM_NAME} and {FOLDER_CONFIG_NAME} into")
    parser.add_argument("--batch", default=_DYNAMIC, help="images per call: a number, or dynamic (default) for any")
    parser.add_argument(
        "--platforms",
        default="cpu,cuda,tpu",
        help=f"of {', '.join(PLATFORMS)}, separated by commas (default: cpu,cuda,tpu)",
    )
    parser.add_argument("--dtype", choices=TOLERANCES, default="float32", help="the dtype that the layers compute in")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    jax.config.update("jax_platforms", "cpu")  # An accelerator is not needed, and may be busy.
    platforms = [name.strip() for name in options.platforms.split(",")]
    print(export_model(options.model, options.out, _batch_size(options.batch), platforms, options.dtype))


def _batch_size(text: str) -> int | None:
    if text == _DYNAMIC:
        return None
    if not text.isascii() or not text.isdecimal():
        raise UserError(f"--batch must be a number of images or {_DYNAMIC}, got {text!r}")
    return int(text)


if __name__ == "__main__":
    run_cli(main)
