"""pmap over all devices, and the layout of arrays for it; the sums over devices stand in the steps themselves."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from einops import rearrange

from gcvit_flax.devices import compiler_options, release_compiler_memory

AXIS = "batch"

Tree = TypeVar("Tree")


def replicate(tree: Tree, devices: list[jax.Device]) -> Tree:
    """Copies `tree` to every device, with the sharding that the steps return, so that none is compiled twice."""
    mesh = jax.sharding.Mesh(np.array(devices), (AXIS,))
    return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def shard(batch: dict[str, np.ndarray], devices: list[jax.Device]) -> dict[str, np.ndarray]:
    """Splits a process's batch (b, ...) over its devices: (devices, b / devices, ...)."""
    return {name: rearrange(x, "(devices b) ... -> devices b ...", devices=len(devices)) for name, x in batch.items()}


class PmappedFunction:
    """pmap over this process's `devices`, or over all devices of all processes if there are several.

    In a single process whose devices need compiler options, which pmap does not take, the function is lowered and
    compiled at the first call, and later calls must have the same shapes. With several processes it is pmap itself,
    without those options, since only pmap makes global arrays of what each process passes.
    """

    def __init__(self, function: Callable[..., Any], devices: list[jax.Device], **options: Any):
        alone = jax.process_count() == 1
        self._mapped = jax.pmap(function, AXIS, devices=devices if alone else None, **options)
        self._options = compiler_options(devices[0]) if alone else {}
        self._compiled: jax.stages.Compiled | None = None

    def lower(self, *arguments: Any) -> jax.stages.Lowered:
        """The program, not yet compiled, for arrays or `jax.ShapeDtypeStruct`s like these."""
        return self._mapped.lower(*arguments)

    def compile(self, *arguments: Any) -> jax.stages.Compiled:
        """The program for arguments like these."""
        program = self.lower(*arguments).compile(dict(self._options))
        release_compiler_memory()
        return program

    def __call__(self, *arguments: Any) -> Any:
        if not self._options:
            return self._mapped(*arguments)
        if self._compiled is None:
            self._compiled = self.compile(*arguments)
        return self._compiled(*arguments)
