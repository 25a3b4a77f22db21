"""The one error type meant for people, and how a command line turns it into an exit status."""

import os
import sys
from collections.abc import Callable


class UserError(ValueError):
    """A mistake the user can mend: one sentence with what was found, what was expected and what to do."""


def first_line(error: Exception) -> str:
    """What `error` says, in one line, for the inside of a sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def run_cli(main: Callable[[], int | None]) -> None:
    """Runs `main` and exits: 0 when done, 1 with one sentence on stderr when it fails; tracebacks are for bugs.

    argparse and tyro exit with 2 themselves on a usage error.
    """
    try:
        status = main() or 0
    except BrokenPipeError:  # What reads the output, `head` say, has enough; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except (UserError, OSError) as error:  # A full disk, a missing permission: the system's own words name the file.
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)
