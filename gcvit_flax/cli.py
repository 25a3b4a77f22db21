"""Shared by all command lines: exit statuses, options, the program's name, and libraries that may be missing."""

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gcvit_flax.errors import UserError

MODEL_HELP = "a folder that the trainer or the converter wrote, or the name of published weights"

# Installed by the extra [train].
_TRAINING_LIBRARIES = ("optax", "grain", "tensorflow_datasets", "array_record", "tyro", "tensorboardX", "simplejpeg")


def run_cli(main: Callable[[], int | None]) -> None:
    """Runs `main` and exits with its status, 0 for None; failures exit with 1 and one sentence on stderr.

    A traceback means a bug. argparse and tyro exit with 2 themselves on a usage error.
    """
    sys.unraisablehook = _print_unless_late
    try:
        status = main() or 0
    except BrokenPipeError:  # The reader, `head` say, has closed the pipe; Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except ModuleNotFoundError as error:
        if error.name not in _TRAINING_LIBRARIES:
            raise
        print(f'error: {error.name} is not installed: pip install ".[train]" brings it', file=sys.stderr)
        status = 1
    except Exception as error:
        from gcvit_flax.storage import explain, is_store_error  # Slow to import: --help does not need it.

        if is_store_error(error):
            print(f"error: Cloud Storage {explain(error)}", file=sys.stderr)
        elif isinstance(error, (UserError, OSError)):  # A full disk, say: the system's message names the file.
            print(f"error: {error}", file=sys.stderr)
        else:
            raise
        status = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)


def outlive_output() -> None:
    """Lets the program go on where stdout or stderr is closed, as by `| head`, a dropped ssh or a full disk."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # Closed from the beginning.
            stream = open(os.devnull, "w")  # noqa: SIM115  # As long as the program runs.
        with contextlib.suppress(io.UnsupportedOperation):  # It has no file: a test's or a notebook's.
            raw = io.BufferedWriter(_Forgiving(stream.fileno(), "w", closefd=False))
            stream = io.TextIOWrapper(raw, stream.encoding, stream.errors, line_buffering=True)
        setattr(sys, name, stream)


class _Forgiving(io.FileIO):
    """A file that drops what cannot be written."""

    def write(self, data: Any) -> int:
        with contextlib.suppress(OSError):
            return super().write(data)
        return len(data)


def _print_unless_late(unraisable: "sys.UnraisableHookArgs") -> None:
    """Prints what cannot be raised, except for writes of TensorStore that end after the one that failed for all."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def program_name(default: str) -> str:
    """The name of the running program in usage and help: the console script's, or `default`."""
    name = Path(sys.argv[0]).name.removesuffix(".exe")
    return name if name.startswith("gcvit-") else default


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Adds the model folder, the images that a program applies it to, and what it computes in."""
    parser.add_argument("model", metavar="MODEL_DIR", help=MODEL_HELP)
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        help="image files, folders (all images below), quoted patterns such as 'photos/**/*.jpg', or - to read paths "
        "from standard input, one per line",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="what the network computes in: bfloat16 is faster on accelerators and on CPUs with instructions for it",
    )


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of programs that read a data set: --data, --split, --val-fraction, --batch-size and so on."""
    parser.add_argument(
        "--data",
        required=True,
        help="digits, folder:PATH, tfds:NAME or hf:NAME_OR_PATH; [PART] behind it is --split PART",
    )
    parser.add_argument("--split", help="part to evaluate on (default: val, else test, else the held-out fraction)")
    parser.add_argument(
        "--val-fraction",
        type=float,
        help="share to hold out if there is no such part (default: as in training, or .1)",
    )
    parser.add_argument("--batch-size", type=int, default=32, help="images at a time, over all devices")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode images; 0 uses threads")
    parser.add_argument("--skip-corrupt", action="store_true", help="leave out images that cannot be read")


def check_minimum(parser: argparse.ArgumentParser, options: argparse.Namespace, **least: int) -> None:
    """Ends the program with a usage error if an option is lower than its value in `least`."""
    for name, minimum in least.items():
        if getattr(options, name) < minimum:
            parser.error(f"--{name.replace('_', '-')} must be at least {minimum}, got {getattr(options, name)}")
