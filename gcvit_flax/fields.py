"""What configurations hold, checked and made plain: ints, pairs of them, and one of several choices."""

import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex, cast

from gcvit_flax.errors import UserError

Size = tuple[int, int]


def as_int(name: str, value: SupportsIndex) -> int:
    """An int from one of any kind, NumPy's and JAX's too; `name` stands for it in error messages."""
    try:
        return int(operator.index(value))
    except TypeError:
        raise UserError(f"{name} must be an int, got {value!r}") from None


def as_pair(name: str, value: SupportsIndex | Sequence[SupportsIndex]) -> Size:
    """A (height, width) pair from an int or a pair; `name` stands for it in error messages."""
    try:
        height = width = operator.index(cast(SupportsIndex, value))
    except TypeError:  # Arrays have __index__ too.
        try:
            height, width = map(operator.index, cast(Sequence[SupportsIndex], value))
        except (TypeError, ValueError):
            raise UserError(f"{name} must be an int or (height, width), two ints, got {value!r}") from None
    return int(height), int(width)


def plain(value: Any) -> Any:
    """A scalar of NumPy or JAX as Python's, which JSON can hold; all else as it is."""
    return value.item() if getattr(value, "shape", None) == () else value


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raises UserError unless `value` is one of `choices`; `name` stands for it in the message."""
    if value not in choices:
        raise UserError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
