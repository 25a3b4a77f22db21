"""A jax.profiler trace of some steps."""

import logging
from typing import Any

import jax
from etils import epath

logger = logging.getLogger("gcvit_flax")


class Profile:
    """Traces the steps of `span`, START:STOP, both included, into `folder`; None traces nothing."""

    def __init__(self, span: str | None, folder: epath.Path):
        start, stop = map(int, span.split(":")) if span else (0, -1)
        self._steps = range(start, stop + 1)
        self._folder = folder
        self._running, self._done = False, not self._steps

    def __enter__(self) -> "Profile":
        return self

    def before(self, step: int) -> None:
        """Starts the trace if `step` is in the span and none was taken yet."""
        if step in self._steps and not self._running and not self._done:
            jax.profiler.start_trace(self._folder)
            self._running = True

    def after(self, step: int, results: Any) -> None:
        """Ends the trace if `step` is the last of the span, once its `results` are there."""
        if self._running and step == self._steps[-1]:
            jax.block_until_ready(results)
            self._end()

    def _end(self) -> None:
        jax.profiler.stop_trace()
        self._running, self._done = False, True

    def __exit__(self, *error: object) -> None:
        if self._running:
            self._end()
        if not self._done:
            logger.warning("--profile %d:%d: no step of these was run", self._steps[0], self._steps[-1])
