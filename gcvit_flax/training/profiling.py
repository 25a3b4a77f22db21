"""A jax.profiler trace of some steps."""

import jax
from etils import epath


class Profile:
    """Traces the steps of `span`, START:STOP with both included, into `folder`; None traces nothing."""

    def __init__(self, span: str | None, folder: epath.Path):
        self._start, self._stop = map(int, span.split(":")) if span else (None, None)
        self._folder = folder
        self._running = False

    def __enter__(self) -> "Profile":
        return self

    def before(self, step: int) -> None:
        """Starts the trace where `step` is the first of the span."""
        if step == self._start:
            jax.profiler.start_trace(self._folder)
            self._running = True

    def after(self, step: int, results) -> None:
        """Ends the trace where `step` is the last of the span, once its `results` are there."""
        if self._running and step >= self._stop:
            jax.block_until_ready(results)
            self._end()

    def _end(self) -> None:
        jax.profiler.stop_trace()
        self._running = False

    def __exit__(self, *error) -> None:
        if self._running:
            self._end()
