"""Measurements in a process of their own: their peak memory is theirs alone, and they can be stopped."""

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Generator, Iterator
from multiprocessing.connection import Connection
from typing import Any
from unittest import mock

from gcvit_flax.errors import UserError, summarize_error

_SECONDS_TO_END = 10.0  # For a process that has sent its last row to clean up.


class OutOfTimeError(Exception):
    """The deadline came before the measurement ended."""


def rows_of(
    function: Callable[..., Iterator[Any]],
    *arguments: Any,
    what: str,
    deadline: float | None = None,
    **environment: str,
) -> Generator[Any]:
    """What the generator `function(*arguments)` yields, which runs in a new process, each row when it is asked for.

    The process also has the variables of `environment`.

    Raises:
      UserError: the process died or failed, which it says of `what`, or raised one itself.
      OutOfTimeError: it has not ended by `deadline`, a time of time.monotonic(), and was killed.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe()
    process = context.Process(target=_send_rows, args=(sender, function, arguments), daemon=True)
    with mock.patch.dict(os.environ, environment):
        process.start()
    sender.close()  # So that the end of the process is the end of the pipe.
    try:
        while True:
            receiver.send("next")
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and (left <= 0 or not receiver.poll(left)):
                raise OutOfTimeError
            row = receiver.recv()
            if isinstance(row, UserError):
                raise row
            if isinstance(row, RuntimeError):
                raise UserError(f"{what} failed: {summarize_error(row)}")
            if row is None:
                process.join(_SECONDS_TO_END)
                return
            yield row
    except (EOFError, BrokenPipeError, ConnectionResetError):
        process.join()
        raise UserError(
            f"{what} ended with status {process.exitcode}: if its own message is not above, it was killed by the "
            "system, most likely for memory"
        ) from None
    finally:
        with contextlib.suppress(ProcessLookupError):  # It has ended, or not yet got so far as to have a group.
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()


def _send_rows(sender: Connection, function: Callable[..., Iterator[Any]], arguments: tuple) -> None:
    """Sends a row for each request, and then None or the error that ended them."""
    os.setpgrp()  # So that what it starts, torch.compile's workers say, ends with it.
    end: Exception | None = None
    try:
        sender.recv()
        for row in function(*arguments):
            sender.send(row)
            sender.recv()
    except UserError as error:
        end = error
    except RuntimeError as error:  # JAX's and PyTorch's, where an allocation fails; they cannot all be sent.
        end = RuntimeError(str(error))
    sender.send(end)
