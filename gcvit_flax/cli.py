"""What every command line shares: exit statuses, the program's name, and libraries that may be missing."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from gcvit_flax.errors import UserError

# What the extra [train] brings.
_TRAINING_LIBRARIES = ("optax", "grain", "tensorflow_datasets", "array_record", "tyro", "tensorboardX")


def run_cli(main: Callable[[], int | None]) -> None:
    """Runs `main` and exits: 0 when done, 1 with one sentence on stderr when it fails; tracebacks are for bugs.

    argparse and tyro exit with 2 themselves on a usage error.
    """
    try:
        status = main() or 0
    except BrokenPipeError:  # What reads the output, `head` say, has enough; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except ModuleNotFoundError as error:
        if error.name not in _TRAINING_LIBRARIES:
            raise
        print(f'error: {error.name} is not installed: pip install ".[train]" brings it', file=sys.stderr)
        status = 1
    except (UserError, OSError) as error:  # A full disk, a missing permission: the system's own words name the file.
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)


def program_name(otherwise: str) -> str:
    """What usage and help call the running program: the console script's name, or `otherwise`."""
    name = Path(sys.argv[0]).name.removesuffix(".exe")
    return name if name.startswith("gcvit-") else otherwise
