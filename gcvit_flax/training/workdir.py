"""The folder of one run: who may write in it, and whether its run can be taken up again."""

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gcvit_flax.errors import UserError
from gcvit_flax.files import replace_text

CONFIG_NAME = "config.json"
_LOCK_NAME = ".lock"
# Everything a run writes, and hence all that starting afresh removes.
_WRITTEN = ("config.json", "metrics.jsonl", "metrics.jsonl.partial", "checkpoints", "model", "curves.png")
_EVENTS_PATTERN = "events.out.tfevents.*"


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Makes the folder and holds it for this process; the system releases it when the process ends, however.

    Raises:
      UserError: (a ValueError) another process is training in it.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / _LOCK_NAME).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{workdir} is in use by another run: wait for it to end, or choose another --workdir"
            ) from None
        yield


def prepare(workdir: Path, settings: dict, free: frozenset[str], resume: bool) -> None:
    """Writes `settings` to config.json, after checking that a run already there may go on, or removing it.

    `settings` may differ from the saved ones in the names in `free` alone, unless nothing was trained yet.

    Raises:
      UserError: (a ValueError) the folder holds something else, or a run of other settings.
    """
    text = json.dumps(settings, indent=2) + "\n"
    settings = json.loads(text)  # As they were saved: tuples are lists.
    saved = _read_settings(workdir)
    if saved is not None and resume and any((workdir / "checkpoints").glob("[0-9]*")):
        names = sorted((settings.keys() | saved.keys()) - free)
        differences = [
            f"{name} was {saved.get(name)!r} and is now {settings.get(name)!r}"
            for name in names
            if saved.get(name) != settings.get(name)
        ]
        if differences:
            raise UserError(
                f"{workdir} holds a run of another configuration ({'; '.join(differences)}): "
                "use the same options, another --workdir, or --no-resume to replace it"
            )
    elif saved is not None:
        for name in _WRITTEN:
            path = workdir / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for path in workdir.glob(_EVENTS_PATTERN):
            path.unlink()
    replace_text(workdir / CONFIG_NAME, text)


def _read_settings(workdir: Path) -> dict | None:
    path = workdir / CONFIG_NAME
    if not path.exists():
        others = sorted(item.name for item in workdir.iterdir() if item.name != _LOCK_NAME)
        if others:
            raise UserError(f"{workdir} is not empty and holds no run ({others[0]}, ...): choose another --workdir")
        return None
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}): choose another --workdir or remove it") from None
