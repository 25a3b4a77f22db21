"""How a command line names data: a kind, a name and, in brackets, perhaps the parts of it that are meant."""

import dataclasses
import re
from collections.abc import Container, Sequence
from pathlib import Path

from gcvit_flax.errors import UserError

# The brackets at the end, which may hold others: tfds:mnist[train[:10%]]. A folder's own name may have some too.
_WITH_PARTS = re.compile(r"(?P<data>.+?)\[(?P<parts>(?:[^\[\]]|\[[^\[\]]*\])*)\]")


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of a data set to train and to evaluate on, as far as they are named."""

    train: str | None = None
    validation: str | None = None

    def __str__(self) -> str:
        """As it stands in brackets; empty if nothing is named."""
        return ",".join(part for part in (self.train, self.validation) if part)

    def choose_validation(self, known: Container[str], usual: Sequence[str]) -> str | None:
        """The validation part: the one that is named, else the first of `usual` that is known and not trained on."""
        trained_on = {part.partition("[")[0].strip() for part in (self.train or "").split("+")}
        free = (part for part in usual if part in known and part not in trained_on)
        return self.validation or next(free, None)


def parse_spec(spec: str) -> tuple[str, Parts]:
    """Data without its brackets, and the parts that they name: [TRAIN] or [TRAIN,VALIDATION].

    Raises:
      UserError: (a ValueError) brackets of another form.
    """
    match = _WITH_PARTS.fullmatch(spec)
    name = spec.partition(":")[2]
    if not match or (name and Path(name).expanduser().exists()):
        return spec, Parts()
    names = [name.strip() for name in match["parts"].split(",")]
    if len(names) > 2 or not all(names):
        raise UserError(
            f"{spec} names no part in its brackets, or more than two: expected [TRAIN] or [TRAIN,VALIDATION]"
        )
    return match["data"], Parts(*names)


def name_evaluated_part(spec: str, split: str | None) -> tuple[str, str | None]:
    """Data and the part of it to evaluate on, if one is named: `split`, or the part in the brackets of `spec`.

    Raises:
      UserError: (a ValueError) both are given.
    """
    data, parts = parse_spec(spec)
    named = parts.validation or parts.train
    if split is not None and named is not None:
        raise UserError(f"{spec} names the part to evaluate on, and so does --split {split}: leave one of them out")
    return data, split or named
