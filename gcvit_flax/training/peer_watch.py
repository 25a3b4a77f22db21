"""Watching the other processes of a run: where one is gone, the others would wait for it in the middle of a step."""

import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

import jax
from jax._src import distributed  # JAX has no public way to its key-value store; Orbax takes the same one.

from gcvit_flax.errors import UserError

_BEAT_SECONDS = 2.0
# Sooner than JAX notices by its own heartbeat (processes.py) and ends the process with a dump of its stack.
_SILENCE_SECONDS = 40.0
# With an error that a lost process may have caused, silence need not last as long.
_SUSPICIOUS_SECONDS = 4 * _BEAT_SECONDS
_BEATS, _FAILURES = "gcvit_flax/beats", "gcvit_flax/failures"


class PeerWatch:
    """Ends this process with a sentence that names another one, once that has failed or fallen silent.

    A thread writes a number to JAX's key-value store every few seconds and reads those of the others. The store lives
    in the first process: if that is killed, JAX ends the others at once, with a dump.
    """

    def __init__(self) -> None:
        self._own, self._count = jax.process_index(), jax.process_count()
        self._ended = threading.Event()
        self._heard: dict[int, tuple[str, float]] = {}  # The last beat of each process, and when it was new.
        self._hosts: dict[int, str] = {}
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeerWatch":
        if self._count > 1:
            self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        if self._count > 1:
            self._thread.join(_BEAT_SECONDS)

    @contextmanager
    def exiting_on_error(self) -> Iterator[None]:
        """Ends this process at once if the block raises while others train with it, and lets them know.

        A normal exit would wait for the others, which wait in the middle of a step.
        """
        try:
            yield
        except KeyboardInterrupt:
            if self._count == 1:
                raise
            self._exit("interrupted", failed=True, status=130)
        except Exception as error:
            if self._count == 1:
                raise
            own = isinstance(error, (UserError, OSError))
            # What JAX's runtime raises within a checkpoint is a process that does not answer there.
            if own and not isinstance(error.__cause__, jax.errors.JaxRuntimeError):
                self._exit(f"error: {error}", failed=True)
            # A collective operation fails in many ways when another process has gone.
            deadline = time.monotonic() + _SUSPICIOUS_SECONDS + 2 * _BEAT_SECONDS
            while time.monotonic() < deadline:
                with suppress(Exception):  # The store may be gone.
                    self._exit_if_lost(_SUSPICIOUS_SECONDS)
                time.sleep(_BEAT_SECONDS / 4)
            self._exit(f"error: {error}" if own else traceback.format_exc(), failed=True)

    def _watch(self) -> None:
        beat = 0
        while not self._ended.wait(_BEAT_SECONDS):
            beat += 1
            # The store may be out of reach for a moment; if it is gone, with the first process, JAX says so.
            with suppress(Exception):
                _store().key_value_set(f"{_BEATS}/{self._own}", f"{beat} {socket.gethostname()}", allow_overwrite=True)
                self._listen()
                self._exit_if_lost(_SILENCE_SECONDS)

    def _listen(self) -> None:
        now = time.monotonic()
        for number, text in _entries(_BEATS).items():
            beat, _, self._hosts[number] = text.partition(" ")
            if self._heard.get(number, ("", 0.0))[0] != beat:
                self._heard[number] = beat, now

    def _exit_if_lost(self, seconds: float) -> None:
        for number in _entries(_FAILURES):
            if number != self._own:
                self._exit(_advise(number, self._hosts, "has failed", "see its own message, and "), failed=False)
        now = time.monotonic()
        for number, (_, heard) in list(self._heard.items()):
            if number != self._own and now - heard > seconds:
                what = f"has ended or cannot be reached, and has been silent for {now - heard:.0f} seconds"
                self._exit(_advise(number, self._hosts, what), failed=False)

    def _exit(self, message: str, failed: bool, status: int = 1) -> None:
        print(message.rstrip(), file=sys.stderr, flush=True)
        if failed:
            with suppress(Exception):
                _store().key_value_set(f"{_FAILURES}/{self._own}", "", allow_overwrite=True)
        if self._own == 0:  # It goes last, since the store goes with it.
            time.sleep(_SUSPICIOUS_SECONDS)
        os._exit(status)


def _advise(number: int, hosts: dict[int, str], what: str, advice: str = "") -> str:
    return (
        f"error: process {number} (on {hosts.get(number, 'an unknown host')}) {what}: {advice}run the same command "
        "again in all processes, which resumes from the last checkpoint"
    )


def _store() -> Any:
    return distributed.global_state.client


def _entries(folder: str) -> dict[int, str]:
    """What the processes wrote, by their numbers."""
    return {int(key.rpartition("/")[2]): value for key, value in _store().key_value_dir_get(f"{folder}/")}
