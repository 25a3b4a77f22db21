"""Devices to compile for that need not be there: slices of Cloud TPUs and GPUs, by name."""

import dataclasses
import math
import re
from typing import Any

import jax
from jax.experimental import topologies

from gcvit_flax.errors import UserError, summarize_error
from gcvit_flax.planning.chips import GPUS, SLICES, TPUS, Gpu, TpuGeneration, gpu_target

GPU_MEMORY_SHARE = 0.75  # That JAX takes at its start, unless XLA_PYTHON_CLIENT_MEM_FRACTION is another.
_MAX_GPUS = 8  # Of one machine; the step has no other way of spreading over machines than more of them.
KNOWN = (
    f"v5e:4x8 or v6e:4x8 ({', '.join(SLICES[2])}), v4:2x2x4 or v5p:2x2x4 ({', '.join(SLICES[3])}, and multiples of 4 "
    f"on all three sides), {' or '.join(GPUS)}, or several of a machine's GPUs as in h100:8"
)


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices of one kind; `memory` is what a program can take of each, in bytes, and `hosts` their machines."""

    name: str
    chip: TpuGeneration | Gpu
    devices: list[jax.Device]
    memory: float

    @property
    def hosts(self) -> int:
        """The number of machines."""
        return len({device.process_index for device in self.devices})


def open_topology(name: str) -> Topology:
    """The devices that `name` stands for: GENERATION:SLICE of Cloud TPUs, or KIND or KIND:COUNT of GPUs.

    Raises:
      UserError: (a ValueError) no such devices, or their compiler is not installed.
    """
    kind, _, size = name.lower().partition(":")
    if kind in TPUS and _is_slice(TPUS[kind], size):
        return Topology(name, TPUS[kind], _tpus(kind, size), TPUS[kind].memory)
    if kind in GPUS and re.fullmatch(rf"[1-{_MAX_GPUS}]?", size) and not name.endswith(":"):
        return Topology(name, GPUS[kind], _gpus(kind, int(size or 1)), GPU_MEMORY_SHARE * GPUS[kind].memory)
    raise UserError(f"no devices are called {name!r}: expected {KNOWN}")


def _is_slice(generation: TpuGeneration, size: str) -> bool:
    if size in SLICES[generation.sides]:
        return True
    if generation.sides == 2 or not re.fullmatch(r"\d+x\d+x\d+", size):
        return False
    sides = [int(side) for side in size.split("x")]
    return all(side and side % 4 == 0 for side in sides) and math.prod(sides) <= generation.largest_slice


def _tpus(generation: str, size: str) -> list[jax.Device]:
    options: dict[str, Any] = {}
    if size == "1x1":
        options["chips_per_host_bounds"] = (1, 1, 1)
    if generation == "v4":
        options["chip_config_name"] = "megacore"  # One device a chip, as on Cloud TPUs.
    try:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=f"{generation}:{size}", **options)
    except RuntimeError as error:
        if "not installed" in str(error):
            raise UserError(
                'libtpu, the compiler for TPUs, is not installed: pip install ".[plan]" brings it, on Linux with x86-64'
            ) from None
        raise UserError(
            f"libtpu knows no {generation}:{size} ({summarize_error(error)}): choose another slice"
        ) from None
    return list(topology.devices)


def _gpus(kind: str, count: int) -> list[jax.Device]:
    try:
        topology = topologies.get_topology_desc(
            platform="cuda", topology_name=kind, target_config=gpu_target(GPUS[kind]), topology=f"1x1x{count}"
        )
    except NotImplementedError:
        raise UserError(
            'JAX\'s CUDA plugin, the compiler for GPUs, is not installed: pip install "jax[cuda13]" brings it, on Linux'
        ) from None
    return list(topology.devices)
