"""What a program holds for TPUs, run without one."""

import contextlib
import functools

import jax
import pytest
from jax.experimental.pallas import tpu as pltpu

from gcvit_flax.model.kernels.tpu import branches, mbconv


@pytest.fixture
def on_tpu(monkeypatch):
    """A context in which programs take what they hold for TPUs, interpreted, with products in full precision.

    With `several` they take what they hold for several TPUs among which XLA divides them.
    """

    @contextlib.contextmanager
    def context(several=False):
        with monkeypatch.context() as patch, jax.default_matmul_precision("highest"):
            patch.setattr(jax.lax, "platform_dependent", _for_tpu)
            for module in (branches, mbconv):
                patch.setattr(module, "traced_late", functools.partial(_traced_now, several))
            with pltpu.force_tpu_interpret_mode():
                yield

    return context


def _for_tpu(*arguments, default=None, tpu=None, **others):
    return (tpu or default)(*arguments)


def _traced_now(several, kernel, reference, shapes, *arrays, **settings):
    """The interpreter works by callbacks, which cannot be traced late; checks the shapes that were promised."""
    results = (reference if several else kernel)(*arrays, **settings)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), results) == jax.tree.map(lambda x: (x.shape, x.dtype), shapes)
    return results
