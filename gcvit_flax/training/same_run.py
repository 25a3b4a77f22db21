"""Whether a command line goes on with the run that a workdir holds, and what to change where it does not."""

import dataclasses
import json
import shlex
from typing import Any

from etils import epath

from gcvit_flax.errors import UserError
from gcvit_flax.training.train_config import TrainOptions

_OPTIONS = {field.name: field.default for field in dataclasses.fields(TrainOptions)}
_DEFAULTS = _OPTIONS | {"data_parts": ""}
_REBUILT = ("model", "preprocessing", "gcvit_flax_version")
# In config.json besides the options.
FACTS = (*_REBUILT, "data_parts", "class_names", "training_examples", "validation_examples")


def check_same_run(
    workdir: epath.Path, saved: dict[str, Any], run_config: dict[str, Any], free: frozenset[str]
) -> None:
    """Compares a run's `saved` config.json with `run_config`, except for the names in `free`.

    What an older version did not save counts as the option's default; other facts are not compared then.

    Raises:
      UserError: (a ValueError) they differ, or the run used an option that this version does not have.
    """
    unknown = [name for name in saved if name not in run_config and name not in _REBUILT]
    # None, False and 0 leave an option out; such a run is one that this version can go on with.
    used = [f"{name} {saved[name]!r}" for name in sorted(unknown) if saved[name]]
    if used:
        raise UserError(
            f"{workdir} holds a run with what this version of gcvit_flax does not have ({', '.join(used)}): resume it "
            f"with version {saved.get('gcvit_flax_version')}, which wrote it, or choose another --workdir"
        )
    before, now = ({**_DEFAULTS, **facts} for facts in (saved, run_config))
    before, now = json.loads(json.dumps([before, now]))  # As it was saved: tuples are lists.
    different = [name for name in sorted(run_config.keys() - free) if before.get(name, now[name]) != now[name]]
    if different:
        changes = "; ".join(_change(name, before[name], now[name]) for name in different)
        typed = [_as_typed(name, before[name]) for name in different if name in _OPTIONS]
        if any(name not in _OPTIONS for name in different):
            typed.append(f"{_as_typed('data', before['data'])} as it was")
        raise UserError(
            f"{workdir} holds a run of another configuration ({changes}): use the same options ({' '.join(typed)}) "
            "or another --workdir; --no-resume would delete that run"
        )


def _change(name: str, before: Any, now: Any) -> str:
    if name == "class_names" and len(before) != len(now):
        return f"the data had {len(before)} classes and now has {len(now)}"
    if name == "class_names":
        index = next(index for index, pair in enumerate(zip(before, now, strict=True)) if len(set(pair)) == 2)
        return f"the data's class {index} was {before[index]!r} and is now {now[index]!r}"
    return f"{name} was {before!r} and is now {now!r}"


def _as_typed(name: str, value: Any) -> str:
    """The option as it stands in a command line: --depths 2 2 6 2, --no-flip."""
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{option}" if value else f"--no-{option}"
    return shlex.join([f"--{option}", *map(str, value if isinstance(value, list) else [value])])
