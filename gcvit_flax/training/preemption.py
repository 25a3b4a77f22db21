"""SIGTERM, with which clouds announce that they take a machine back (preemption)."""

import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils


class SigtermWatch:
    """Records SIGTERM instead of exiting, while the block runs in the main thread."""

    def __init__(self) -> None:
        self._received = False
        # If several processes train, JAX catches the signal itself and lets them agree on a step.
        self._watches = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "SigtermWatch":
        if self._watches:
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._received = True

    def stops_after(self, step: int) -> bool:
        """Whether to save and stop after `step`: the same step in every process. Ask at every step."""
        return self._received or multihost_utils.reached_preemption_sync_point(step)

    def __exit__(self, *error: object) -> None:
        if self._watches:
            signal.signal(signal.SIGTERM, self._before)
