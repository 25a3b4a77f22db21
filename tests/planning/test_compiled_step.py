"""The trainer's step, compiled from shapes alone; two simulated CPU devices stand for others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import TINY

from gcvit_flax.errors import UserError
from gcvit_flax.model.gcvit import create_model
from gcvit_flax.model.init import init_params
from gcvit_flax.planning.chips import TPUS
from gcvit_flax.planning.compiled_step import StepCompiler
from gcvit_flax.planning.topologies import Topology
from gcvit_flax.training.pmapped import replicate, shard
from gcvit_flax.training.steps import create_train_state, make_train_step
from gcvit_flax.training.train_config import TrainConfig

CONFIG = TrainConfig(batch_size=4, ema_decay=0.5)
TOPOLOGY = Topology("v5e:2x2", TPUS["v5e"], jax.local_devices(), TPUS["v5e"].memory)


@pytest.fixture(scope="module")
def model():
    return create_model(TINY)


@pytest.fixture(scope="module")
def compiler(model):
    return StepCompiler(model, CONFIG, TOPOLOGY)


def test_it_is_the_program_that_the_trainer_runs(model, compiler):
    state = replicate(create_train_state(model, init_params(model, jax.random.key(0)), CONFIG), TOPOLOGY.devices)
    images = np.zeros((4, 32, 32, 3), np.uint8)
    batch = {"image": images, "label": np.zeros(4, np.int32), "index": np.arange(4, dtype=np.int32)}
    step = make_train_step(model, CONFIG, TOPOLOGY.devices)
    real = step.lower(state, shard(batch, TOPOLOGY.devices), jax.random.key(5), np.float32(1e-3))
    planned = make_train_step(model, CONFIG, TOPOLOGY.devices).lower(*compiler.arguments(4))
    assert planned.as_text() == real.as_text()


def test_memory_of_one_device(compiler):
    step = compiler(4)
    images, numbers = 2 * 32 * 32 * 3, 2 * 4 * 2
    assert step.memory.arguments == pytest.approx(compiler.state_bytes + images + numbers, rel=0.01)
    assert step.memory.temporaries > 2 * images and step.needed == step.memory.total
    assert step.program.as_text() and step.seconds > 0 and step.batch_size == 4
    sizes = [leaf.size for leaf in jax.tree.leaves(init_params(create_model(TINY), jax.random.key(0)))]
    assert compiler.state_bytes == pytest.approx(4 * 4 * sum(sizes), rel=0.01)  # Adam's two moments, and the average.


class Failing:
    """A lowered step whose compilation fails."""

    def __init__(self, message: str):
        self._message = message

    def lower(self, *arguments):
        return self

    def compile(self, options):
        raise jax.errors.JaxRuntimeError(self._message)


@pytest.mark.parametrize(
    ("message", "needed"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (29.53G) "
            "exceeds available HBM (15.75G).",
            29.53 * 2**30,
        ),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 512.5M of 15.75G hbm.", 512.5 * 2**20),
    ],
)
def test_more_than_the_memory_is_an_answer(compiler, monkeypatch, message, needed):
    monkeypatch.setattr(compiler, "_step", Failing(message))
    step = compiler(4096)
    assert step.program is None and step.memory is None and step.batch_size == 4096
    assert step.needed == compiler.state_bytes + round(needed)


def test_another_failure_is_one_sentence(compiler, monkeypatch):
    message = "RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem while allocating\nmore"
    monkeypatch.setattr(compiler, "_step", Failing(message))
    with pytest.raises(UserError) as failure:
        compiler(4)
    assert str(failure.value) == (
        "the compiler for v5e:2x2 fails on this step: RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem while "
        "allocating"
    )


def test_a_batch_is_as_the_input_makes_it(compiler):
    _, batch, key, rate = compiler.arguments(6)
    assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
        "image": ((2, 3, 32, 32, 3), jnp.uint8),
        "label": ((2, 3), jnp.int32),
        "index": ((2, 3), jnp.int32),
    }
    assert key.dtype == jax.random.key(0).dtype and rate.shape == ()
