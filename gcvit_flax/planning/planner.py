"""A plan from start to finish: options to a model, devices, a compiled step and what it says."""

from collections.abc import Callable
from typing import Any

from gcvit_flax.devices import check_divides
from gcvit_flax.planning.compiled_step import CompiledStep, StepCompiler
from gcvit_flax.planning.known_data import data_size
from gcvit_flax.planning.largest_batch import Limits, largest_batch
from gcvit_flax.planning.options import PlanRequest
from gcvit_flax.planning.report import describe_plan
from gcvit_flax.planning.topologies import open_topology
from gcvit_flax.training.plan import batch_unit, resolve_defaults
from gcvit_flax.training.setup import build_model


def make_plan(request: PlanRequest, say: Callable[[str], None]) -> dict[str, Any]:
    """What `request` takes; `say` is told what takes a while.

    Raises:
      UserError: (a ValueError) options or devices that do not fit, or a compiler that is missing or fails.
    """
    data = data_size(request.config, request.examples)
    model = build_model(request.config, tuple(map(str, range(data.classes))))
    config, topology = resolve_defaults(request.config, model.config), open_topology(request.topology)
    limits = Limits(len(topology.devices), batch_unit(config), topology.memory, data.examples)
    check_divides(config.global_batch, limits.devices, limits.unit, "--topology")
    compiler = StepCompiler(model, config, topology)

    def compile_another(batch_size: int) -> CompiledStep:
        say(f"compiling it for {batch_size:,} images, which may be the most: {first.seconds / 60:.0f} minutes or more")
        return compiler(batch_size)

    say(f"compiling the step for {config.global_batch:,} images on {topology.name}: minutes, by the network's depth")
    first = compiler(config.global_batch)
    report = describe_plan(config, model, data, topology, first)
    if request.largest_batch:
        found = largest_batch(compile_another, first, limits, compiler.state_bytes)
        report |= {"largest_batch_size": found and found.batch_size, "largest_batch_needed": found and found.needed}
    return report
