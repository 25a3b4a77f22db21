"""Trains a GCViT: `python train.py [PRESET] [--option value ...]`."""

import logging
import sys
from collections.abc import Sequence

from gcvit_flax.cli import outlive_output, run_cli
from gcvit_flax.huge_pages import restart_with_huge_pages


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains as the command line asks."""
    from gcvit_flax.training.command_line import parse  # Needs the extra [train].

    config = parse(sys.argv[1:] if arguments is None else arguments)
    outlive_output()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("gcvit_flax").setLevel(logging.INFO)
    # Imported after parsing, so that --help and usage errors are immediate.
    from gcvit_flax.devices import enable_compilation_cache
    from gcvit_flax.training.launch import train

    enable_compilation_cache()
    train(config)


if __name__ == "__main__":
    restart_with_huge_pages()
    run_cli(main)
