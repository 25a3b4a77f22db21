"""The trainer's own step, compiled for devices that need not be there."""

import dataclasses
import re
import time
from typing import Any

import jax
import jax.numpy as jnp

from gcvit_flax.data.bands import pixel_type
from gcvit_flax.errors import UserError, summarize_error
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.planning.topologies import Topology
from gcvit_flax.training.steps import abstract_train_state, make_train_step
from gcvit_flax.training.train_config import TrainConfig

# Else XLA:GPU times its kernels, on a GPU.
_OPTIONS: dict[str, dict[str, str | bool]] = {"gpu": {"xla_gpu_autotune_level": "0"}}
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# libtpu's words where a program is too large.
_NEEDED = re.compile(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM|[Uu]sed ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm")


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device: state and batch that go in, what is computed in between, and the program."""

    arguments: int
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.arguments + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """The step for batches of `batch_size` images, which took `seconds` to compile and needs `needed` bytes a device.

    `memory` and `program` are None where the compiler gave up because they are more than there are.
    """

    batch_size: int
    seconds: float
    needed: int
    memory: Memory | None = None
    program: jax.stages.Compiled | None = None


class StepCompiler:
    """Compiles the step of a training run for a topology's devices."""

    def __init__(self, model: GCViT, config: TrainConfig, topology: Topology):
        self._model, self._topology = model, topology
        self._state = abstract_train_state(model, config)
        self._step = make_train_step(model, config, topology.devices)

    @property
    def state_bytes(self) -> int:
        """Bytes of parameters, optimizer state and averages, which every device holds."""
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self._state))

    def __call__(self, batch_size: int) -> CompiledStep:
        """The step for batches of `batch_size` images over all devices.

        Raises:
          UserError: (a ValueError) the compiler fails, for another reason than the devices' memory.
        """
        began = time.perf_counter()
        lowered = self._step.lower(*self.arguments(batch_size))
        try:
            program = lowered.compile(_OPTIONS.get(self._topology.devices[0].platform))
        except jax.errors.JaxRuntimeError as error:
            if not (needed := _NEEDED.search(str(error))):
                raise UserError(
                    f"the compiler for {self._topology.name} fails on this step: {summarize_error(error)}"
                ) from error
            number, unit = needed.groups()[:2] if needed[1] else needed.groups()[2:]
            temporaries = round(float(number) * _UNITS[unit])
            return CompiledStep(batch_size, time.perf_counter() - began, self.state_bytes + temporaries)
        seconds, memory = time.perf_counter() - began, _memory(program)
        return CompiledStep(batch_size, seconds, memory.total, memory, program)

    def arguments(self, batch_size: int) -> tuple[Any, ...]:
        """Shapes and dtypes of what the step takes: the state, a batch as the input makes it, key, learning rate."""
        devices = len(self._topology.devices)
        share = (devices, batch_size // devices)
        size, channels = self._model.preprocessing.image_size, self._model.preprocessing.channels
        batch = {
            "image": jax.ShapeDtypeStruct((*share, *size, channels), pixel_type(channels)),
            "label": jax.ShapeDtypeStruct(share, jnp.int32),
            "index": jax.ShapeDtypeStruct(share, jnp.int32),
        }
        key = jax.eval_shape(lambda: jax.random.key(0))
        return self._state, batch, key, jax.ShapeDtypeStruct((), jnp.float32)


def _memory(program: jax.stages.Compiled) -> Memory:
    analysis: Any = program.memory_analysis()
    kept = analysis.output_size_in_bytes - analysis.alias_size_in_bytes  # The new state takes the old one's place.
    return Memory(
        arguments=analysis.argument_size_in_bytes + kept,
        temporaries=analysis.temp_size_in_bytes,
        code=analysis.generated_code_size_in_bytes,
    )
