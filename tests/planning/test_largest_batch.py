"""The search for the largest batch, with a compiler that only counts."""

import pytest

from gcvit_flax.planning.compiled_step import CompiledStep
from gcvit_flax.planning.largest_batch import Limits, largest_batch

DEVICES, FIXED, MEMORY = 4, 1000, 100_000


class Compiler:
    """A step takes `FIXED` bytes, `each` a device's image, and `extra` that are not known beforehand."""

    def __init__(self, each: float, extra: float = 0.0):
        self.each, self.extra, self.compiled = each, extra, []

    def __call__(self, batch_size: int) -> CompiledStep:
        self.compiled.append(batch_size)
        return CompiledStep(batch_size, 1.0, round(FIXED + self.extra + self.each * batch_size / DEVICES))


def find(compiler: Compiler, asked: int, unit: int = 1, examples: int | None = None) -> CompiledStep | None:
    return largest_batch(compiler, compiler(asked), Limits(DEVICES, unit, MEMORY, examples), FIXED)


@pytest.mark.parametrize("asked", [32, 320, 4 * 400])
def test_memory_that_grows_with_the_batch_takes_one_more_compilation(asked):
    """Also where the batch that was asked for does not fit."""
    compiler = Compiler(each=300)
    found = find(compiler, asked)
    assert len(compiler.compiled) == 2 and found.batch_size == compiler.compiled[-1]
    assert found.needed <= MEMORY and found.batch_size % (4 * 8) == 0
    assert found.needed > 0.85 * MEMORY


def test_memory_that_also_takes_something_else():
    compiler = Compiler(each=300, extra=30_000)
    found = find(compiler, 64)
    assert len(compiler.compiled) == 3 and 0.8 * MEMORY < found.needed <= MEMORY


def test_a_batch_that_nearly_fills_the_memory_is_the_largest():
    compiler = Compiler(each=300)
    assert find(compiler, 4 * 320).batch_size == 4 * 320 and len(compiler.compiled) == 1


def test_shares_are_multiples_of_the_unit():
    assert find(Compiler(each=300), 4 * 12, unit=12).batch_size % (4 * 24) == 0  # And of eight.
    assert find(Compiler(each=30_000), 4 * 8).batch_size == 4 * 3  # Where eight are too many.


def test_no_batch_is_larger_than_the_data():
    compiler = Compiler(each=300)
    assert find(compiler, 32, examples=150).batch_size == 4 * 32 and compiler.compiled == [32, 4 * 32]


def test_nothing_fits():
    compiler = Compiler(each=200_000)
    assert find(compiler, 4 * 8) is None and compiler.compiled == [4 * 8]


def test_the_state_alone_does_not_fit():
    compiler = Compiler(each=300)
    assert largest_batch(compiler, compiler(32), Limits(DEVICES, 1, FIXED / 2), FIXED) is None
    assert compiler.compiled == [32]


def test_only_what_was_compiled_counts():
    """The memory jumps where nobody expects it: the batch that was asked for is the largest that is known to fit."""

    class Jumping(Compiler):
        def __call__(self, batch_size):
            step = super().__call__(batch_size)
            return step if batch_size <= 400 else CompiledStep(batch_size, 1.0, 10 * MEMORY)

    assert find(Jumping(each=300), 400).batch_size == 400
