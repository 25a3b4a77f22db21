"""One side of `benchmarks.compare_input`: batches drawn when the other process asks; the standard library alone."""

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Work(NamedTuple):
    """What every side does: endless batches of random crops, uint8 (batch, size, size, 3) or with channels first."""

    folder: Path  # folder/CLASS/IMAGE.jpg
    size: int
    batch: int
    workers: int
    area: tuple[float, float] = (0.08, 1.0)  # Share of the image.
    aspects: tuple[float, float] = (3 / 4, 4 / 3)  # Width over height.


def serve(open_batches: Callable[[Work, list[str]], Iterator[Any]]) -> None:
    """Draws batches for each line of standard input, "BATCHES SECONDS", until both are reached; prints both."""
    folder, size, batch, workers, *rest = sys.argv[1:]
    batches = open_batches(Work(Path(folder), int(size), int(batch), int(workers)), rest)
    for line in sys.stdin:
        least_batches, least_seconds = map(float, line.split())
        began = time.perf_counter()
        for count in itertools.count(1):
            next(batches)
            elapsed = time.perf_counter() - began
            if count >= least_batches and elapsed >= least_seconds:
                break
        print(count, elapsed, flush=True)
