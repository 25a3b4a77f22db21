"""A training run that is stopped again and again at random, in every way that a cloud has, and what it leaves."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from small import alive, free_address, parse_metrics, wait_until

PATIENCE_SECONDS = 500  # JAX waits 300 for a process that is killed before it has joined.


class StoppedRun:
    """A run of `count` processes in `workdir`, whose files `read` reads by their names."""

    def __init__(
        self, command: list, workdir: str, count: int, read: Callable[[str], bytes | None], environment: dict, cwd: Path
    ):
        self._command, self._workdir, self._count = [*map(str, command), "--workdir", workdir], workdir, count
        self._read, self._environment, self._cwd = read, environment, cwd
        self._log = open(cwd / "output.txt", "ab")  # noqa: SIM115  # As long as the run is.

    def metrics(self) -> list[dict]:
        """The whole lines of metrics.jsonl, but for what differs from run to run."""
        return parse_metrics((self._read("metrics.jsonl") or b"").decode())

    def finish(self, *options: object) -> None:
        """Trains to the end, in three attempts at most.

        On CPUs, JAX's processes give up if one of them reaches the first sum over all thirty seconds after another, as
        happens on a machine with other work.
        """
        for _ in range(3):
            if all([process.wait(PATIENCE_SECONDS) == 0 for process in self._start(*options)]):
                return
        raise AssertionError(self._output())

    def stop(self, rng: random.Random) -> str:
        """Starts it, stops it at a random moment in a random way, waits until all is gone, and says how."""
        before = len(self.metrics())
        processes = self._start("--workers", rng.choice([0, 1]))
        lines = rng.choice([0, 1, 1, 2, 4])
        if lines == 0:  # In the middle of its start.
            time.sleep(rng.uniform(0, 8))
        else:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while len(self.metrics()) < before + lines:
                assert time.monotonic() < deadline, self._output()
                assert all(process.poll() is None for process in processes), self._output()
                time.sleep(0.05)
            time.sleep(rng.uniform(0, 0.7))
        how = rng.choice(["kill one", "kill all", "terminate one", "terminate all"])
        for process in [rng.choice(processes)] if how.endswith("one") else processes:
            if how == "kill one":
                process.kill()
            elif how == "terminate one":
                process.terminate()
            else:  # With its workers.
                os.killpg(process.pid, signal.SIGKILL if how == "kill all" else signal.SIGTERM)
        statuses = [process.wait(PATIENCE_SECONDS) for process in processes]
        if how.startswith("terminate") and lines:
            assert statuses == [0] * self._count, self._output()
        for process in processes:
            wait_until(lambda group=process.pid: not alive(group))  # No worker outlives its run.
        return f"{how}, {'at its start' if lines == 0 else 'in training'}"

    def _start(self, *options: object) -> list[subprocess.Popen]:
        address, processes = free_address(), []
        for number in range(self._count):
            joined = ["--coordinator", address, "--num-processes", self._count, "--process-id", number]
            command = [sys.executable, *self._command, *map(str, [*options, *(joined if self._count > 1 else [])])]
            output = {"stdout": self._log, "stderr": self._log, "start_new_session": True}
            processes.append(subprocess.Popen(command, cwd=self._cwd, env=self._environment, **output))
        return processes

    def _output(self) -> str:
        return (self._cwd / "output.txt").read_text(errors="replace")[-4000:]
