"""Times of calls that take turns, so that what else a machine does falls on all of them."""

import functools
import math
import statistics
import time
from collections.abc import Callable, Mapping

Run = Callable[[], object]

_WARM_UP_TURNS = 2  # In which memory is touched and threads are started.
_ROUNDS = 5
_MOST_CALLS = 20  # Whose results an accelerator has room for at the same time.


def take_turns(runs: Mapping[str, Run], rounds: int) -> dict[str, list[float]]:
    """Seconds of `rounds` calls of each, which take turns after two turns to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + _WARM_UP_TURNS):
        for name, run in runs.items():
            elapsed = seconds_of(run)
            if turn >= _WARM_UP_TURNS:
                seconds[name].append(elapsed)
    return seconds


def seconds_of(run: Run) -> float:
    """Seconds that one call takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def seconds_per_call(runs: Mapping[str, Callable[[int], object]], least: float) -> dict[str, float]:
    """The median of seconds per call of each `run(calls)`, which starts that many calls and waits for the last.

    Accelerators are asked ahead, as a training loop does it: each measurement has the calls that take `least` seconds.
    """
    calls = {}
    for name, run in runs.items():
        run(1)  # Compiles.
        calls[name] = min(_MOST_CALLS, max(1, math.ceil(least / seconds_of(functools.partial(run, 1)))))
    turns = {name: functools.partial(run, calls[name]) for name, run in runs.items()}
    return {name: statistics.median(times) / calls[name] for name, times in take_turns(turns, _ROUNDS).items()}
