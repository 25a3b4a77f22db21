"""Signals that ask a run to stop: SIGTERM, with which clouds take a machine back (preemption), SIGHUP and Ctrl-C."""

import contextlib
import os
import signal
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils

from gcvit_flax.data.batches import Batch
from gcvit_flax.data.workers import STOP_SIGNALS

_POLL_SECONDS = 0.1  # Between two looks whether a signal has come.


class StopRequested(Exception):
    """A signal has come, and the run is to be saved: no error."""


class StopSignals:
    """Records signals instead of ending, while the block runs in the main thread; a second Ctrl-C does end.

    Several processes agree on a moment at which all of them stop, by JAX's preemption service. Signals that are ignored
    when the block begins, as SIGHUP is under nohup, remain so.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._agreeing = jax.process_count() > 1
        self._asked, self._reached = 0, False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for signum in STOP_SIGNALS:
                # With several processes, JAX itself has a handler for SIGTERM, which Python does not see.
                if signal.getsignal(signum) != signal.SIG_IGN and not (self._agreeing and signum == signal.SIGTERM):
                    self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler or signal.SIG_DFL)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(signum)
        if signum == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            with contextlib.suppress(OSError):  # Not print: the signal may have come in the middle of another.
                os.write(2, b"\nstopping: the run is saved first; Ctrl-C again ends it at once\n")
        if self._agreeing:
            os.kill(os.getpid(), signal.SIGTERM)  # Tells JAX's service.

    @property
    def name(self) -> str:
        """The signal that came, "SIGTERM" if it came to another process."""
        return (self.received or signal.SIGTERM).name

    def reached(self) -> bool:
        """Whether to stop now: the same answer in every process, if all ask at the same moments, step by step."""
        self._asked += 1
        if self._agreeing:
            self._reached = self._reached or multihost_utils.reached_preemption_sync_point(self._asked)
        else:
            self._reached = self.received is not None
        return self._reached

    @property
    def interrupts(self) -> bool:
        """Whether a wait is to be given up: never with several processes, whose others may go on with the next step."""
        return self.received is not None and not self._agreeing


class InterruptibleBatches(Iterator[Batch]):
    """The batches of a generator, taken in a thread, so that a signal can end the wait for one.

    The signal's handler must not raise in the middle of the generator's own waits: their queues would be left locked.
    """

    def __init__(self, batches: Generator[Batch, None, None], signals: StopSignals):
        self._batches, self._signals = batches, signals
        self._thread = ThreadPoolExecutor(1)

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
          StopRequested: a signal has come.
        """
        if self._signals.interrupts:
            raise StopRequested
        batch = self._thread.submit(next, self._batches, None)
        while not wait([batch], _POLL_SECONDS).done:
            if self._signals.interrupts:
                raise StopRequested
        found = batch.result()
        if found is None:
            raise StopIteration
        return found

    def close(self) -> None:
        """Ends the generator, once it has ended what it is doing."""
        self._thread.shutdown()
        self._batches.close()
