"""Shared by all command lines: exit statuses, the program's name, and libraries that may be missing."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from gcvit_flax.errors import UserError

# Installed by the extra [train].
_TRAINING_LIBRARIES = ("optax", "grain", "tensorflow_datasets", "array_record", "tyro", "tensorboardX", "simplejpeg")


def run_cli(main: Callable[[], int | None]) -> None:
    """Runs `main` and exits with its status, 0 for None; failures exit with 1 and one sentence on stderr.

    A traceback means a bug. argparse and tyro exit with 2 themselves on a usage error.
    """
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
    except (UserError, OSError) as error:  # A full disk or a missing permission: the system's message names the file.
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)


def program_name(default: str) -> str:
    """The name of the running program in usage and help: the console script's, or `default`."""
    name = Path(sys.argv[0]).name.removesuffix(".exe")
    return name if name.startswith("gcvit-") else default
