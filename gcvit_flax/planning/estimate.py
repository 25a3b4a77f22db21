"""A compiled step's time on TPUs, as the compiler expects it, and what that leaves out."""

import dataclasses

from gcvit_flax.planning.chips import TpuGeneration
from gcvit_flax.planning.costs import Costs
from gcvit_flax.planning.topologies import Topology

_FEW_ELEMENTS = 100_000  # What gathers and scatters of fewer than these take is not worth a word.


@dataclasses.dataclass(frozen=True)
class StepTime:
    """Seconds of one step, by where they go."""

    operations: float
    kernels: float
    all_reduce: float

    @property
    def total(self) -> float:
        """All of them, as if nothing overlapped."""
        return self.operations + self.kernels + self.all_reduce


def step_time(costs: Costs, chip: TpuGeneration, devices: int) -> StepTime:
    """The time of a step of these `costs` on a slice.

    The gradients go around a ring of all chips, over one link each.
    """
    sent = 2 * (devices - 1) / devices * costs.reduced_bytes
    return StepTime(costs.cycles / chip.hertz, costs.kernel_seconds, sent / chip.link_bandwidth)


def left_out(costs: Costs, topology: Topology) -> list[str]:
    """What the time of a step leaves out, in words."""
    missing = ["waiting for images", "evaluations and checkpoints"]
    if costs.kernels:
        missing.append(
            f"what {costs.kernels:,} Pallas kernels take beyond operations at the peak or bytes at full bandwidth"
        )
    if costs.silent_kernels:
        missing.append(f"{costs.silent_kernels:,} Pallas kernels altogether, which state no costs")
    if costs.sparse_elements > _FEW_ELEMENTS:
        missing.append(
            f"gathers and scatters of {costs.sparse_elements:,} elements a step and chip: no estimate, but slow on TPUs"
        )
    if len(topology.devices) > 1:
        missing.append("that the sum of the gradients, one link of each chip at full bandwidth here, may overlap")
    return missing
