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

from tpu_slice import GcloudError, Setback, Slice, say

# An error that comes at every one of so many starts on a slice is the user's; a store that is down may cause others.
STARTS = 2


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, with what follows -- in `training`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zone", required=True)
    parser.add_argument("--bucket", required=True, help="without gs://")
    parser.add_argument("--name", default="gcvit", help="the slice's (default: %(default)s)")
    parser.add_argument("--accelerator-type", default="v5litepod-32", help="default: %(default)s")
    parser.add_argument("--runtime-version", default="v2-alpha-tpuv5-lite", help="default: %(default)s")
    parser.add_argument("--attempts", type=int, default=5, help="in a row without progress (default: %(default)s)")
    parser.add_argument("--poll-seconds", type=float, default=30, help="default: %(default)s")
    parser.add_argument("training", nargs="+", help="gcvit-train's arguments, after --")
    return parser.parse_args(arguments)


class Run:
    """A training run and the slice that it is on."""

    def __init__(self, options: argparse.Namespace):
        self._options = options
        kind = [f"--accelerator-type={options.accelerator_type}", f"--runtime-version={options.runtime_version}"]
        self.slice = Slice(options.name, options.zone, kind, options.poll_seconds)
        self._saved_step = 0  # The latest that the machines have told of.
        self._shown: set[str] = set()

    def finish(self) -> None:
        """Makes attempts until the run is done; exits after too many in a row that got no further."""
        fruitless, problem = 0, ""
        while fruitless < self._options.attempts:
            before = self._saved_step
            try:
                self._attempt()
                self.slice.delete()
                return
            except Setback as setback:
                fruitless, problem = 1 if self._saved_step > before else fruitless + 1, str(setback)
                say(f"{problem}; attempts since step {self._saved_step}: {fruitless}")
            self.slice.delete()
            self.slice.pause()
        sys.exit(f"error: given up after {fruitless} attempts in a row without progress; the last one: {problem}")

    def _attempt(self) -> None:
        """Trains on one slice until the run is done.

        Raises:
          Setback: it ended before.
        """
        self.slice.obtain()
        self.slice.on_all("setup", self._options.bucket)
        for _ in range(STARTS):
            states = self._train()
            if "done" in states:
                return
            if states - {"deserted"} != {"error"}:
                raise Setback("the training ended before the run was done")
            self.slice.pause()
        self.slice.delete()
        sys.exit("error: the training ended with the error above, which is to be corrected; the slice is deleted")

    def _train(self) -> set[str]:
        """Starts the training, unless that was done, and returns what `_look` says when it has ended.

        Raises:
          Setback: the slice is gone.
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
    run = Run(options)
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
