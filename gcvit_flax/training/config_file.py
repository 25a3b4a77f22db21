"""A file of options: the config.json of a run, or a few lines of YAML or JSON."""

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Mapping
from typing import Any

import yaml
from etils import epath

from gcvit_flax.errors import UserError
from gcvit_flax.storage import explained
from gcvit_flax.training.options.bounds import problem
from gcvit_flax.training.same_run import FACTS
from gcvit_flax.training.train_config import TrainOptions

# In a run's config.json, what was so of the process that wrote it: --no-resume must not delete that run again.
_OF_THAT_PROCESS = ("resume", "coordinator", "num_processes", "process_id")
_FIELDS = {field.name: field for field in dataclasses.fields(TrainOptions)}
_TYPES = typing.get_type_hints(TrainOptions)
_UNIONS = (types.UnionType, typing.Union)  # `|` of a Literal makes the second.


def read_config_file(path: epath.PathLike) -> dict[str, Any]:
    """The options in the file `path` by name, in their types.

    Raises:
      UserError: (a ValueError) it cannot be read, or has an option that is unknown, of another type or out of range.
    """
    content = _read(path)
    if "gcvit_flax_version" in content:
        content = {name: value for name, value in content.items() if name not in (*FACTS, *_OF_THAT_PROCESS)}
    options = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in _FIELDS:
            close = difflib.get_close_matches(name, _FIELDS, n=1, cutoff=0.75)
            hint = f"did you mean {close[0]}?" if close else "train.py --help lists the options"
            raise UserError(f"{path} has the unknown option {key!r}: {hint}")
        options[name] = _converted(path, name, value)
    return options


def _read(path: epath.PathLike) -> Mapping[Any, Any]:
    try:
        with explained(path):
            text = epath.Path(path).expanduser().read_text()
    except (OSError, UnicodeDecodeError) as error:
        what = getattr(error, "strerror", None) or "it is not text"
        raise UserError(
            f"--config {path} cannot be read ({what}): name the config.json of a run, or a file of options"
        ) from None
    try:
        content = json.loads(text)
    except ValueError:
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            place = f", line {mark.line + 1}" if mark else ""
            what = getattr(error, "problem", None) or "what YAML cannot hold"
            raise UserError(f"{path}{place} is neither YAML nor JSON ({what}): write lines like epochs: 30") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no options by name: write lines like epochs: 30")
    return content


def _converted(path: epath.PathLike, name: str, value: Any) -> Any:
    try:
        converted = _as_type(value, _TYPES[name])
    except ValueError:
        raise UserError(f"{path}: {name} must be {_describe(_TYPES[name])}, got {value!r}") from None
    if found := problem(_FIELDS[name], converted):
        raise UserError(f"{path}: {name} {found}")
    return converted


def _as_type(value: Any, kind: Any) -> Any:
    """`value` from YAML or JSON as what the type of an option declares; a ValueError if it is something else."""
    origin, members = typing.get_origin(kind), typing.get_args(kind)
    if origin in _UNIONS:
        return _as_first(value, members)
    if origin is typing.Literal and value in members:
        return value
    if origin is tuple and isinstance(value, list):
        members = (members[0],) * len(value) if members[-1] is ... else members
        return tuple(_as_type(one, member) for one, member in zip(value, members, strict=True))
    if kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        return float(value)  # PyYAML reads 1e-3 as a string.
    if type(value) is kind:
        return value
    raise ValueError


def _as_first(value: Any, kinds: tuple[Any, ...]) -> Any:
    for kind in kinds:
        try:
            return _as_type(value, kind)
        except ValueError:
            continue
    raise ValueError


def _describe(kind: Any) -> str:
    """A type in words, such as "a list of 4 integers or null"."""
    origin, members = typing.get_origin(kind), typing.get_args(kind)
    if origin in _UNIONS:
        return " or ".join(map(_describe, members))
    if origin is typing.Literal:
        return " or ".join(members)
    if origin is tuple:
        count = "" if members[-1] is ... else f"{len(members)} "
        return f"a list of {count}{_describe(members[0]).split()[-1]}s"
    return {int: "an integer", float: "a number", bool: "true or false", str: "a string"}.get(kind, "null")
