"""What a compiled program costs by the compiler's own estimates, which stand in its text.

XLA:TPU writes the cycles that it expects on every fusion. A Pallas kernel states its operations and bytes instead, of
which the slower counts here, at the chip's peak or its memory's bandwidth. Gathers and scatters are without an
estimate, as are kernels that state nothing: they are counted.
"""

import dataclasses
import re

from gcvit_flax.planning.hlo import Instruction, Program, elements, size_in_bytes

_PALLAS = r'custom_call_target="(tpu_custom_call|mosaic_gpu|__gpu\$xla\.gpu\.triton)'


@dataclasses.dataclass(frozen=True)
class Costs:
    """Sums over all instructions that run on one device in one step."""

    cycles: int = 0
    kernel_seconds: float = 0.0
    kernels: int = 0
    silent_kernels: int = 0
    sparse_elements: int = 0
    reduced_bytes: int = 0
    fusions: int = 0
    library_calls: int = 0

    def __add__(self, other: "Costs") -> "Costs":
        return Costs(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    def __mul__(self, times: int) -> "Costs":
        return Costs(*(times * value for value in dataclasses.astuple(self)))


def read_costs(text: str, peak_flops: float, bandwidth: float) -> Costs:
    """The costs of the program `text`, on a chip of these FLOP/s and bytes/s.

    Loops count as often as they run, and of several branches the most expensive one.
    """
    return _Reader(Program(text), peak_flops, bandwidth).total()


class _Reader:
    def __init__(self, program: Program, peak_flops: float, bandwidth: float):
        self._program, self._peak_flops, self._bandwidth = program, peak_flops, bandwidth

    def total(self) -> Costs:
        return self._computation(self._program.entry)

    def _computation(self, name: str) -> Costs:
        shapes = self._program.shapes(name)
        return sum((self._instruction(each, shapes) for each in self._program.computations[name]), Costs())

    def _instruction(self, instruction: Instruction, shapes: dict[str, str]) -> Costs:
        if instruction.opcode == "while":
            (body,) = instruction.called("body")
            return self._computation(body) * self._program.trips(instruction)
        if instruction.opcode == "conditional":
            names = instruction.called("branch_computations", "true_computation", "false_computation")
            return max(map(self._computation, names), key=lambda costs: (costs.cycles, dataclasses.astuple(costs)))
        if instruction.opcode in ("call", "async-start"):
            return sum(map(self._computation, instruction.called("to_apply", "calls")), Costs())
        if instruction.opcode == "custom-call":
            return self._custom_call(instruction)
        if instruction.opcode in ("all-reduce", "all-reduce-start"):
            return Costs(reduced_bytes=size_in_bytes(instruction.shape))
        cycles = re.search(r'"estimated_cycles":"(\d+)"', instruction.rest)
        moved = [_moved(instruction, shapes), *(_moved(*each) for each in self._program.inside(instruction))]
        return Costs(
            cycles=int(cycles[1]) if cycles else 0,
            sparse_elements=sum(moved),
            fusions=int(instruction.opcode == "fusion"),
        )

    def _custom_call(self, instruction: Instruction) -> Costs:
        """A Pallas kernel's costs, or a library's call on a GPU; other targets on a TPU only name buffers."""
        if not re.search(_PALLAS, instruction.rest):
            return Costs(library_calls=int('custom_call_target="__cu' in instruction.rest))
        stated = [re.search(rf'"{name}":"(\d+)"', instruction.rest) for name in ("flops", "bytes_accessed")]
        flops, moved = (int(match[1]) if match else 0 for match in stated)
        seconds = max(flops / self._peak_flops, moved / self._bandwidth)
        return Costs(kernel_seconds=seconds, kernels=1, silent_kernels=int(not seconds))


def _moved(instruction: Instruction, shapes: dict[str, str]) -> int:
    """The elements that a gather or scatter moves one by one."""
    if instruction.opcode == "gather":
        return elements(instruction.shape)
    if instruction.opcode == "scatter":
        *_, updates = instruction.operands()
        return elements(shapes[updates])
    return 0
