"""What options may be: their bounds, and whether a resumed run may have others."""

import dataclasses
import math
from typing import Any, NamedTuple


class Bounds(NamedTuple):
    """What a number must be, in words and as an interval without its ends where those are `open`."""

    text: str
    low: float
    high: float = math.inf
    low_open: bool = False
    high_open: bool = True

    def hold(self, value: float) -> bool:
        """Whether `value` lies within them."""
        above = value > self.low if self.low_open else value >= self.low
        return above and (value < self.high if self.high_open else value <= self.high)


POSITIVE = Bounds("positive", 0, low_open=True)
NOT_NEGATIVE = Bounds("at least 0", 0)
FRACTION = Bounds("above 0 and at most 1", 0, 1, low_open=True, high_open=False)
SHARE = Bounds("at least 0 and below 1", 0, 1)
PROBABILITY = Bounds("from 0 to 1", 0, 1, high_open=False)
MAGNITUDE = Bounds("from 0 to 10", 0, 10, high_open=False)


def option(default: Any, bounds: Bounds | None = None, *, free_on_resume: bool = False) -> Any:
    """A field of a group with its bounds; a run may be resumed with another value if it is `free_on_resume`."""
    return dataclasses.field(default=default, metadata={"bounds": bounds, "free_on_resume": free_on_resume})


def problem(field: dataclasses.Field, value: Any) -> str | None:
    """What is wrong with an option's value or values, such as "must be positive, got -1"; None if nothing is."""
    bounds = field.metadata.get("bounds")
    values = value if isinstance(value, tuple) else (value,)
    if bounds is None or all(one is None or bounds.hold(one) for one in values):
        return None
    return f"must be {bounds.text}, got {' '.join(map(str, values))}"
