"""Compiled programs in XLA's text form: their instructions, and how often each runs."""

import dataclasses
import math
import re
from collections.abc import Iterator

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][\w\-]*)\((.*)$")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction: `shape` is its result's, `rest` all that follows its opcode, from the operands on."""

    name: str
    shape: str
    opcode: str
    rest: str

    def called(self, *roles: str) -> list[str]:
        """The computations that the instruction runs in one of the `roles`, such as body or calls."""
        names = re.findall(rf"\b(?:{'|'.join(roles)})=(\{{[^}}]*\}}|%?[\w.\-]+)", self.rest)
        return [name for group in names for name in re.findall(r"[\w.\-]+", group)]

    def operands(self) -> list[str]:
        """The names of the operands."""
        return re.findall(r"%([\w.\-]+)", self.rest.partition(")")[0])


class Program:
    """The computations of a compiled program, by name; `entry` is the one that runs."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        self.entry, current = "", ""
        for line in text.splitlines():
            if head := _COMPUTATION.match(line):
                current = head[2]
                self.computations[current] = []
                self.entry = current if head[1] else self.entry
            elif current and (match := _INSTRUCTION.match(line)):
                self.computations[current].append(Instruction(*match.groups()))

    def inside(self, fusion: Instruction) -> Iterator[tuple[Instruction, dict[str, str]]]:
        """The instructions that a fusion is made of, each with the shapes, by name, of those beside it."""
        for name in fusion.called("calls"):
            shapes = self.shapes(name)
            for inner in self.computations[name]:
                yield inner, shapes
                yield from self.inside(inner)

    def shapes(self, computation: str) -> dict[str, str]:
        """The shapes of a computation's instructions, by name."""
        return {instruction.name: instruction.shape for instruction in self.computations[computation]}

    def trips(self, loop: Instruction) -> int:
        """How often a `while` runs: what the compiler says, or else what its condition compares with."""
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
            return int(known[1])
        (condition,) = loop.called("condition")
        constants = [
            int(instruction.rest.partition(")")[0])
            for instruction in self._below(condition)
            if instruction.opcode == "constant" and re.match(r"\d+\)", instruction.rest)
        ]
        return max(constants, default=1)

    def _below(self, name: str) -> Iterator[Instruction]:
        for instruction in self.computations[name]:
            yield instruction
            for inner in instruction.called("calls", "to_apply"):
                yield from self._below(inner)


def elements(shape: str) -> int:
    """How many numbers a shape such as `f32[8,3]{1,0}`, or a tuple of such, has."""
    return sum(count for _, count in _arrays(shape))


def size_in_bytes(shape: str) -> int:
    """How many bytes they take."""
    return sum(_BYTES.get(dtype, 8) * count for dtype, count in _arrays(shape))


def _arrays(shape: str) -> Iterator[tuple[str, int]]:
    for dtype, sides in re.findall(r"\b([a-z]\w*)\[([\d,]*)\]", shape):
        yield dtype, math.prod(int(side) for side in sides.split(",") if side)
