"""Checks of single values, for the fields of a configuration."""

import itertools
import sys
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

from gcvit_flax.errors import UserError

# Of anything that is counted: far beyond what can be trained. Larger numbers, in a forged file, would take long to
# refuse.
MOST = 2**16

Size = tuple[int, int]


def as_pair(name: str, value: int | Sequence[int]) -> Size:
    """A (height, width) pair from an int or a pair; `name` stands for it in error messages."""
    if isinstance(value, Integral):
        return int(value), int(value)
    sides = tuple(value) if isinstance(value, Iterable) else ()
    if len(sides) != 2 or not all(isinstance(side, Integral) for side in sides):
        raise UserError(f"{name} must be an int or (height, width), got {value!r}")
    return int(sides[0]), int(sides[1])


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raises UserError unless `value` is one of `choices`; `name` stands for it in the message."""
    if value not in choices:
        raise UserError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_integers(name: str, value: Any, least: int) -> None:
    """Raises UserError unless `value` is an integer from `least` to MOST, or a tuple of such or of pairs of such."""
    values = value if isinstance(value, tuple) else (value,)
    for number in itertools.chain.from_iterable(v if isinstance(v, tuple) else (v,) for v in values):
        if not isinstance(number, Integral) or isinstance(number, bool) or not least <= int(number) <= MOST:
            raise UserError(f"{name} must be an integer from {least} to {MOST}, got {value!r}")


def is_finite(value: Any) -> bool:
    """Whether `value` is a real number that is neither infinite nor NaN."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    largest: Any = sys.float_info.max  # An int may be larger.
    return bool(abs(value) <= largest)
