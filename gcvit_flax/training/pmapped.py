"""Functions that run on all devices at once, and how arrays are laid out for them."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from einops import rearrange

from gcvit_flax.devices import compiler_options, release_compiler_memory

AXIS = "batch"

Tree = TypeVar("Tree")


def replicate(tree: Tree, devices: list[jax.Device]) -> Tree:
    """Puts a copy of `tree` on every device, in the layout that the steps give back: one compilation serves all."""
    mesh = jax.sharding.Mesh(np.array(devices), (AXIS,))
    return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def shard(batch: dict[str, np.ndarray], devices: list[jax.Device]) -> dict[str, np.ndarray]:
    """Splits a process's batch (b, ...) over its devices: (devices, b / devices, ...)."""
    return {name: rearrange(x, "(devices b) ... -> devices b ...", devices=len(devices)) for name, x in batch.items()}


class PmappedFunction:
    """pmap of a function over this process's `devices`, and over all devices of all processes if there are several.

    If the devices need compiler options, which pmap does not take, the function is compiled apart at the first call,
    for arguments of those shapes; several processes do without, since only pmap itself makes global arrays of what each
    process passes.
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
