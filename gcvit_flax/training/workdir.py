"""A run's workdir: locking it, and deciding whether its run can be resumed."""

import fcntl
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from gcvit_flax.atomic import replace_text
from gcvit_flax.errors import UserError
from gcvit_flax.storage import check_described, children, is_remote
from gcvit_flax.training import processes
from gcvit_flax.training.damaged_checkpoints import COMMITTED_NAME
from gcvit_flax.training.same_run import check_same_run

CONFIG_NAME = "config.json"
CHECKPOINTS_NAME = "checkpoints"
_LOCK_NAME = ".lock"
_MARK_NAME = ".shared"
_DISCARDED_NAME = ".discarded"
# Everything else that a run writes, except config.json: it marks the folder as a run's, and the next run replaces it.
_WRITTEN = (
    *("metrics.jsonl", "metrics.jsonl.partial", "starts.jsonl", "starts.jsonl.partial", "model", ".model.partial"),
    *("profile", "curves.png", "wandb", "wandb_id.txt", "wandb_id.txt.partial"),
)
_EVENTS_PATTERN = "events.out.tfevents.*"


@contextmanager
def locked(workdir: epath.Path) -> Iterator[None]:
    """Makes the folder and locks it for this process; the system unlocks it however the process ends.

    An object store has neither folders nor locks: there the bucket is checked alone.

    Raises:
      UserError: (a ValueError) another process is training in it, or the bucket cannot hold a run.
    """
    if is_remote(workdir):
        check_described(workdir)
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / _LOCK_NAME, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{workdir} is in use by another run: wait for it to end, or choose another --workdir"
            ) from None
        yield


def check_shared(workdir: epath.Path) -> None:
    """Checks that all processes see the folder that the first one, which holds it locked, has made.

    Raises:
      UserError: (a ValueError) in every process: some of them do not.
    """
    if processes.count() == 1:
        return
    mark, token = workdir / _MARK_NAME, random.SystemRandom().randrange(1, 2**32)
    with processes.raising_together():  # Its end is also the barrier between writing and reading.
        if processes.is_first():
            mark.write_text(str(token))
    seen = processes.gather(_read_mark(mark))
    if processes.is_first():
        mark.unlink()
    blind = [str(number) for number, found in enumerate(seen) if found != seen[0]]
    if blind:
        raise UserError(
            f"the processes do not share the workdir {workdir} (process 0 has made it, and it is not there for process "
            f"{', '.join(blind)}): give all of them the same --workdir, on a file system that all hosts share or gs://"
        )


def _read_mark(mark: epath.Path) -> int:
    try:
        return int(mark.read_text())
    except (OSError, ValueError):  # Not there, or as a cache of the file system still has it.
        return 0


def run_to_resume(workdir: epath.Path, run_config: dict, free: frozenset[str], resume: bool) -> dict | None:
    """The saved config.json of the run to resume, or None if a run starts here and may replace what is there.

    A run with a checkpoint is resumed if `run_config` is its own, except for the names in `free`.
    One without a checkpoint is replaced.

    Raises:
      UserError: (a ValueError) the folder holds something else, or a run of other facts.
    """
    if not (workdir / CONFIG_NAME).exists():
        _check_empty(workdir)
        return None
    if not resume or not _saved_checkpoints(workdir):
        return None
    saved = read_run_config(workdir)
    check_same_run(workdir, saved, run_config, free)
    return saved


def start_afresh(workdir: epath.Path) -> None:
    """Removes everything that a run wrote except config.json, and nothing else."""
    discarded, checkpoints = workdir / _DISCARDED_NAME, workdir / CHECKPOINTS_NAME
    if discarded.exists():
        discarded.rmtree()
    if is_remote(workdir):  # First of all, a partly removed run must not look like one to resume.
        for checkpoint in _saved_checkpoints(workdir):
            (checkpoint / COMMITTED_NAME).unlink(missing_ok=True)
        checkpoints.rmtree(missing_ok=True)
    elif checkpoints.exists():
        checkpoints.rename(discarded)
        discarded.rmtree()
    for path in [*workdir.glob(_EVENTS_PATTERN), *(workdir / name for name in _WRITTEN)]:
        if path.is_dir():
            path.rmtree()
        else:
            path.unlink(missing_ok=True)


def write_run_config(workdir: epath.Path, run_config: dict[str, Any]) -> None:
    """Writes config.json."""
    replace_text(workdir / CONFIG_NAME, json.dumps(run_config, indent=2) + "\n")


def read_run_config(workdir: epath.Path) -> dict[str, Any]:
    """Reads config.json.

    Raises:
      UserError: (a ValueError) it is not the JSON of a run.
    """
    path = workdir / CONFIG_NAME
    try:
        run_config = json.loads(path.read_text())
        problem = None if isinstance(run_config, dict) else "it holds no options"
    except ValueError as error:  # Not JSON, or not even text.
        problem = str(error)
    if problem:
        raise UserError(
            f"{path} is damaged ({problem}): choose another --workdir; --no-resume would delete the run in this one"
        )
    return run_config


def _saved_checkpoints(workdir: epath.Path) -> list[epath.Path]:
    """The folders of the checkpoints that were written to their end."""
    return ocp.utils.checkpoint_steps_paths(workdir / CHECKPOINTS_NAME)


def _check_empty(workdir: epath.Path) -> None:
    ours = (_LOCK_NAME, _MARK_NAME, _DISCARDED_NAME, f"{CONFIG_NAME}.partial")
    others = sorted(item.name for item in children(workdir) if item.name not in ours)
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise UserError(f"{workdir} is not empty and holds no run, but {others[0]}{more}: choose another --workdir")
