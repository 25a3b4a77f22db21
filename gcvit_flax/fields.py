"""What configurations hold, checked and made plain: numbers, pairs of them, and one of several choices."""

import itertools
import operator
import sys
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, SupportsIndex, cast

from gcvit_flax.errors import UserError

# Of anything that is counted: far beyond what can be trained. Larger numbers, in a forged file, would take long to
# refuse.
MOST = 2**16

Size = tuple[int, int]


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
