"""Our input beside torchvision's and tf.data's, on the same work: `python -m benchmarks.compare_input --peers PYTHON`.

Every side reads the same JPEGs, crops them at random (8 to 100 % of the area), resizes the crops with the bicubic
filter and makes batches of them, in processes or threads of its own, as many as there are cores. The sides take turns.
Rates are images per second of processor time, summed over all processes of a side, so that they are per core and
what else the machine does counts little; and images per second of the clock. Memory is what the processes of a side
hold, pages that they share counted once.

`ours` and `torchvision` resize with antialiasing. `tf` does not, which is usual and less work; `tf_antialias` does.
"""

import contextlib
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import psutil
import tyro

from benchmarks.jpegs import make_jpegs
from gcvit_flax.cli import run_cli
from gcvit_flax.errors import UserError

_COMMANDS = {
    "ours": ("benchmarks.input_ours",),
    "torchvision": ("benchmarks.input_torchvision",),
    "tf": ("benchmarks.input_tensorflow",),
    "tf_antialias": ("benchmarks.input_tensorflow", "antialias"),
}
_WARM_UP_BATCHES = 16  # More than are read ahead, so that what is timed is what is produced meanwhile.
_CLOCK_TICK = 0.01  # Seconds; processor time is counted in these.
_INSTALL = 'pip install "torch==2.13.0" && pip install -r tests/peers/requirements-input.txt'


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What to run."""

    sides: tuple[Literal["ours", "torchvision", "tf", "tf_antialias"], ...] = tuple(_COMMANDS)
    # The Python in whose environment torchvision and TensorFlow are.
    peers: Path = Path(sys.executable)
    # IMAGES/CLASS/IMAGE.jpg, two classes or more; default: 400 are generated, 500 x 375 pixels and some 110 kB.
    images: Path | None = None
    image_size: int = 224
    batch: int = 64
    # Processes of ours and torchvision, threads of tf.data.
    workers: int = os.cpu_count() or 1
    rounds: int = 5
    # Of each turn.
    seconds: float = 5.0


class Side:
    """A process that makes batches when asked."""

    def __init__(self, name: str, options: Comparison, folder: Path):
        python = sys.executable if name == "ours" else str(options.peers)
        module, *rest = _COMMANDS[name]
        work = map(str, (folder, options.image_size, options.batch, options.workers))
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        self._name, self._batch = name, options.batch
        self._pipe = subprocess.Popen(
            [python, "-m", module, *work, *rest],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def turn(self, seconds: float) -> tuple[float, float]:
        """Images per second of processor time and of the clock."""
        self._draw(_WARM_UP_BATCHES, 0)
        before = self._processor_seconds()
        count, elapsed = self._draw(1, seconds)
        images = count * self._batch
        processor = max(self._processor_seconds() - before, _CLOCK_TICK)
        return images / processor, images / elapsed

    def memory(self) -> float:
        """MB that all processes hold."""
        return sum(process.memory_full_info().pss for process in self._processes()) / 1e6

    def close(self) -> None:
        """Ends the process, which removes its temporary files; kills what does not end."""
        processes = self._processes()
        with contextlib.suppress(BrokenPipeError):  # It has ended, and left a question unread.
            self._pipe.stdin.close()
        _, alive = psutil.wait_procs(processes, timeout=60)
        for process in alive:
            process.kill()
        self._pipe.wait()

    def _draw(self, batches: int, seconds: float) -> tuple[int, float]:
        try:
            print(batches, seconds, file=self._pipe.stdin, flush=True)
            count, elapsed = self._pipe.stdout.readline().split()
        except (BrokenPipeError, ValueError) as error:
            raise UserError(
                f"the side {self._name} has ended, see its own message above; peers need an environment, whose Python "
                f"--peers names, with: {_INSTALL}"
            ) from error
        return int(count), float(elapsed)

    def _processor_seconds(self) -> float:
        times = [process.cpu_times() for process in self._processes()]
        return sum(time.user + time.system for time in times)

    def _processes(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._pipe.pid)
            return [process, *process.children(recursive=True)]
        return []


def main() -> None:
    """Parses, measures and prints."""
    options = tyro.cli(Comparison, description=__doc__)
    if options.rounds < 1 or options.workers < 1 or not options.sides:
        raise UserError("--rounds, --workers and the number of --sides must be at least 1")
    with contextlib.ExitStack() as stack:
        folder = options.images or make_jpegs(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        sides = {}
        for name in options.sides:
            sides[name] = stack.enter_context(contextlib.closing(Side(name, options, folder)))
        for line in _compare(sides, options):
            print(line, flush=True)


def _compare(sides: dict[str, Side], options: Comparison) -> Iterator[str]:
    """Lines of results: one per side and round, and the summary."""
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(options.rounds):
        for name, side in sides.items():
            rates[name].append(side.turn(options.seconds))
            core, clock = rates[name][-1]
            yield f"{turn + 1} {name}: {core:.0f} images/s and core, {clock:.0f} images/s, {side.memory():.0f} MB"
    medians = {name: [statistics.median(column) for column in zip(*rates[name], strict=True)] for name in sides}
    for name, (core, clock) in medians.items():
        ratios = [ours[0] / theirs[0] for ours, theirs in zip(rates.get("ours", []), rates[name], strict=False)]
        compared = f", ours is {statistics.median(ratios):.2f} times as fast per core" if ratios else ""
        yield f"{name}: {core:.0f} images/s and core, {clock:.0f} images/s{compared}"


if __name__ == "__main__":
    run_cli(main)
