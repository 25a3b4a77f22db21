"""Trains on a spot slice of Cloud TPUs, and on another one after each preemption, until the run is done.

    python examples/cloud_tpu/supervise.py --zone ZONE --bucket BUCKET -- imagenet --workdir gs://BUCKET/runs/tiny

What follows -- are gcvit-train's arguments; on the machines the bucket is ~/data, and relative paths start at ~. Needs
gcloud, and no library. The training does not depend on this program, which can be stopped and started again.
"""

import argparse
import re
import shutil
import signal
import sys
from collections.abc import Sequence

from checkout import find_source
from tpu_slice import GcloudError, Setback, Slice, SliceLost, say

# An error that ends so many starts in a row, without progress in between, is the user's; others come and go.
ERRORS = 2


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, with what follows -- in `training`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zone", required=True)
    parser.add_argument("--bucket", required=True, help="without gs://")
    parser.add_argument("--repository", help="whose default branch to install instead of this checkout's commit")
    parser.add_argument("--name", default="gcvit", help="the slice's (default: %(default)s)")
    parser.add_argument("--accelerator-type", default="v5litepod-32", help="default: %(default)s")
    parser.add_argument("--runtime-version", default="v2-alpha-tpuv5-lite", help="default: %(default)s")
    parser.add_argument("--attempts", type=int, default=5, help="in a row without progress (default: %(default)s)")
    parser.add_argument("--poll-seconds", type=float, default=30, help="default: %(default)s")
    parser.add_argument("training", nargs="+", help="gcvit-train's arguments, after --")
    return parser.parse_args(arguments)


class OwnError(Setback):
    """The training has ended with an error of its own."""


class Run:
    """A training run and the slice that it is on."""

    def __init__(self, options: argparse.Namespace, source: tuple[str, str]):
        self._options, self._source = options, source
        kind = [f"--accelerator-type={options.accelerator_type}", f"--runtime-version={options.runtime_version}"]
        self.slice = Slice(options.name, options.zone, kind, options.poll_seconds)
        self._saved_step = 0  # The latest that the machines have told of.
        self._shown: set[str] = set()

    def finish(self) -> None:
        """Makes attempts until the run is done; exits after too many in a row that got no further."""
        fruitless, errors, problem = 0, 0, ""
        while fruitless < self._options.attempts and errors < ERRORS:
            before = self._saved_step
            try:
                self._attempt()
                self.slice.delete()
                return
            except Setback as setback:
                if self._saved_step > before:
                    fruitless = errors = 0
                fruitless += 1
                errors = errors + 1 if isinstance(setback, OwnError) else 0
                problem = str(setback)
                say(f"{problem}; attempts since step {self._saved_step}: {fruitless}")
                if isinstance(setback, SliceLost):
                    self.slice.delete()
            self.slice.pause()
        self.slice.delete()
        if errors == ERRORS:
            sys.exit("error: the training ended with the error above, which is to be corrected; the slice is deleted")
        sys.exit(f"error: given up after {fruitless} attempts in a row without progress; the last one: {problem}")

    def _attempt(self) -> None:
        """Trains until the run is done, on the slice that is there if there is one.

        Raises:
          Setback: it ended before.
        """
        self.slice.obtain()
        self.slice.on_all("setup", self._options.bucket, *self._source)
        states = self._train()
        if "done" in states:
            return
        if states - {"deserted"} == {"error"}:
            raise OwnError("the training ended with an error")
        raise Setback("the training ended before the run was done")

    def _train(self) -> set[str]:
        """Starts the training, unless that was done, and returns what `_look` says when it has ended.

        Raises:
          SliceLost: the slice is gone.
        """
        if "run-state: other" in self.slice.on_all("start", *self._options.training):
            sys.exit(
                f"error: the slice {self.slice.name} is training with other arguments: give those to follow that run, "
                f"choose another --name, or delete the slice first: {self.slice.delete_command}"
            )
        while "running" in (states := self._look()):
            self.slice.pause()
        return states

    def _look(self) -> set[str]:
        """The states of the run on the machines, as machine.sh tells them, and "done"; shows what is new."""
        report = self.slice.on_all("report")
        for line in report.splitlines():
            if line not in self._shown and "run-state: " not in line:
                say(line)
                self._shown.add(line)
        saved = [_number(step) for step in re.findall(r"stopped by \w+: saved at step ([\d,]+)", report)]
        begun = [_number(step) for step in re.findall(r"run: steps ([\d,]+) to", report)]
        self._saved_step = max([self._saved_step, *saved, *(step - 1 for step in begun)])
        done = {"done"} if re.search(r"\bdone: the best model|: this run is done", report) else set()
        return done | set(re.findall(r"run-state: (\w+)", report))


def _number(text: str) -> int:
    return int(text.replace(",", ""))


def main() -> None:
    """Trains until the run is done; leaves the slice as it is on Ctrl-C and SIGTERM."""
    options = parse_options(sys.argv[1:])
    if not shutil.which("gcloud"):
        sys.exit("error: there is no gcloud on the PATH: install the Google Cloud CLI and log in")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run = Run(options, find_source(options.repository))
    try:
        run.slice.read_state()
        run.finish()
    except GcloudError as error:
        sys.exit(f"error: gcloud cannot list the slices of {options.zone}: {error}")
    except KeyboardInterrupt:
        say(f"stopped following: what is on the slice goes on, and so do its costs: {run.slice.delete_command}")
        sys.exit(130)


if __name__ == "__main__":
    main()
