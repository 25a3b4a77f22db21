"""SIGTERM, with which clouds announce that they take a machine back."""

import signal
import threading


class SigtermWatch:
    """Notes SIGTERM (a TPU's preemption notice) instead of dying, while the block runs in the main thread."""

    received = False

    def __enter__(self) -> "SigtermWatch":
        self._in_main_thread = threading.current_thread() is threading.main_thread()
        if self._in_main_thread:
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def _note(self, signum, frame) -> None:
        self.received = True

    def __exit__(self, *error) -> None:
        if self._in_main_thread:
            signal.signal(signal.SIGTERM, self._before)
