"""Matches the names of a file's tensors with the table of names, in both directions."""

import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gcvit_flax.errors import UserError
from gcvit_flax.weights.names import KERAS_CLASSES, TABLE, Row
from gcvit_flax.weights.tensors import Shape

_INDICES = ("i", "j", "k")
_LISTS = {"level": "i", "block": "j", "feature": "k"}  # The classes of list members, and the index of each.

_Match = tuple[str, Row, dict[str, Any]]  # The file's name, its row in the table, and the values of the placeholders.


def match(shapes: Mapping[str, Shape], column: str) -> tuple[dict[str, tuple[str, Row]], list[str]]:
    """Our name -> (the file's name, its row in the table) for a file's tensors, and the names not in the table.

    `shapes` maps the file's names to shapes; `column` is "official", "timm" or "keras". Keras classes may have any
    name: list members are identified by their position and shape.

    Raises:
      UserError: two tensors are the same parameter.
    """
    found: list[_Match] = []
    unknown = []
    for name in sorted(shapes):
        hits = [(row, hit) for row in TABLE if (hit := _pattern(getattr(row, column)).fullmatch(name))]
        if hits:
            row, hit = hits[0]
            found.append((name, row, hit.groupdict()))
        else:
            unknown.append(name)
    if column == "keras":
        _number_classes(found, shapes)
    ours: dict[str, tuple[str, Row]] = {}
    for name, row, fields in found:
        parameter = row.ours.format(**_indices(fields))
        if parameter in ours:
            raise UserError(f"{ours[parameter][0]} and {name} are both {parameter}: expected one of them; remove one")
        ours[parameter] = name, row
    return ours, unknown


def names_in(family: str, parameters: Iterable[str]) -> dict[str, tuple[str, Row]]:
    """Our name -> (its name in a file of `family`, its row) for each of our `parameters`."""
    return {parameter: _name_in(family, parameter) for parameter in parameters}


def column(family: str) -> str:
    """The column of the table of names that has the names of the tensors in files of `family`."""
    return {"official": "official", "keras2": "official", "timm": "timm"}.get(family, "keras")


def _name_in(family: str, parameter: str) -> tuple[str, Row]:
    for row in TABLE:
        if hit := _pattern(row.ours).fullmatch(parameter):
            indices = _indices(hit.groupdict())
            derived = {f"next_{field}": index + 1 for field, index in indices.items()}
            suffixes = {f"_{field}": f"_{index}" if index else "" for field, index in indices.items()}
            classes = KERAS_CLASSES.get(family, KERAS_CLASSES["keras_io"])
            return getattr(row, column(family)).format(**indices, **derived, **suffixes, **classes), row
    raise ValueError(f"{parameter} is not in the table of names")


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    """A regular expression for `template`, with placeholders as named groups; a class and its suffix are one group."""
    parts = re.split(r"\{(\w+)\}", template)
    for place in range(1, len(parts), 2):
        field = parts[place]
        number = r"0|[1-9]\d{0,3}"
        expression = number if field.removeprefix("next_") in _INDICES else "[^/]+"
        parts[place] = "" if field.startswith("_") else f"(?P<{field}>{expression})"
    literal = [part if place % 2 else re.escape(part) for place, part in enumerate(parts)]
    return re.compile("".join(literal))


def _indices(fields: Mapping[str, str]) -> dict[str, int]:
    indices = {field: int(fields[field]) for field in _INDICES if field in fields}
    return indices | {field: int(fields[f"next_{field}"]) - 1 for field in _INDICES if f"next_{field}" in fields}


def _number_classes(found: Sequence[_Match], shapes: Mapping[str, Shape]) -> None:
    """Adds the indices i, j and k of the level, block and query stage to the fields of each match."""
    # (kind, the level they are in) -> {class name: a size to order them by}
    members: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for name, row, fields in found:
        for kind in _LISTS.keys() & fields.keys():
            parent = "" if kind == "level" else fields["level"]
            sizes = members[kind, parent]
            sizes.setdefault(fields[kind], 0)
            if kind == "level" and row.ours.endswith("/norm1/scale"):
                sizes[fields[kind]] = sum(shapes[name][:1])  # Each level is wider than the one before.
            if kind == "block" and row.ours.endswith("/attn/qkv/kernel"):
                sizes[fields[kind]] = -sum(shapes[name][-1:])  # Local blocks come first; their qkv includes queries.
    positions = {key: _positions(sizes) for key, sizes in members.items()}
    for _, _, fields in found:
        for kind in _LISTS.keys() & fields.keys():
            parent = "" if kind == "level" else fields["level"]
            fields[_LISTS[kind]] = positions[kind, parent][fields[kind]]


def _positions(sizes: Mapping[str, int]) -> dict[str, int]:
    """The position of each list member: by its suffix, then by size if members of several classes share a suffix."""
    suffix = re.compile(r"(?<=.)_(\d{1,9})\Z")
    numbered = {name: int(hit.group(1)) if (hit := suffix.search(name)) else 0 for name in sizes}
    by_class: dict[str, set[int]] = defaultdict(set)
    for name, number in numbered.items():
        by_class[suffix.sub("", name)].add(number)
    for base, numbers in by_class.items():
        if numbers != set(range(len(numbers))):
            raise UserError(
                f"the layers {', '.join(sorted(sizes))} lack a number of {base}: expected all of them; save it again"
            )
    ordered = sorted(sizes, key=lambda name: (numbered[name], sizes[name]))
    return {name: place for place, name in enumerate(ordered)}
