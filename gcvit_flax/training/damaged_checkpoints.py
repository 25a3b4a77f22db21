"""Damaged checkpoints of a run: found by their checksums, and moved out of the way of whole ones."""

import itertools
import logging

import orbax.checkpoint as ocp
from etils import epath

from gcvit_flax.errors import UserError
from gcvit_flax.weights.checksums import add_checksums, find_change_outside, find_damage, write_checksums

logger = logging.getLogger("gcvit_flax")

_ARRAYS = "default"  # Orbax's folder for what is not given a name.
COMMITTED_NAME = "commit_success.txt"  # What Orbax writes last into a checkpoint in an object store.
_COMMIT_FILES = ("_CHECKPOINT_METADATA", COMMITTED_NAME)  # Which Orbax writes after its callback.


def write_before_commit(folder: epath.Path, step: int) -> None:
    """Writes the checksums of the checkpoint that Orbax is about to rename to `step`, or on gs:// to mark as done."""
    for path in folder.iterdir():
        if path.name == str(step) or path.name.startswith(f"{step}.orbax-checkpoint-tmp"):
            write_checksums(path, leaving_out=_COMMIT_FILES)


def add_after_commit(folder: epath.Path, step: int) -> None:
    """Adds the checksums of what committing the checkpoint has written; without them, only that is not verified."""
    add_checksums(folder / str(step), _COMMIT_FILES)


def set_aside_damaged(folder: epath.Path) -> None:
    """Renames the damaged checkpoints in `folder` that stand before a whole one, and warns; all are kept.

    Of those older than the newest whole checkpoint, only the small files are read.

    Raises:
      UserError: (a ValueError) all are damaged; they stay as they are.
    """
    steps = sorted(ocp.utils.checkpoint_steps(folder), reverse=True) if folder.exists() else []
    damages: dict[int, str] = {}
    whole = None
    for step in steps:
        path = folder / str(step)
        if whole is None:
            damage = find_damage(path, may_be_unlisted=_COMMIT_FILES)
        else:
            damage = find_change_outside(path, _ARRAYS)
        if damage:
            damages[step] = damage
        elif whole is None:
            whole = step
    if damages and whole is None:
        raise UserError(
            f"no checkpoint in {folder} is whole ({'; '.join(damages.values())}): restore such files from a copy, or "
            "choose another --workdir; --no-resume would delete that run"
        )
    for step, damage in damages.items():
        aside = _free_name(folder, f"{step}.damaged")
        (folder / str(step)).rename(aside)
        logger.warning("%s: the checkpoint is now %s, and the run goes on from step %d", damage, aside.name, whole)


def _free_name(folder: epath.Path, name: str) -> epath.Path:
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(path for path in (folder / name for name in names) if not path.exists())
