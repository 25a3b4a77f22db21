"""What a plan says, in numbers: sizes in bytes, times in seconds."""

import dataclasses
from typing import Any

import jax

from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.model.init import abstract_params
from gcvit_flax.planning.chips import TpuGeneration
from gcvit_flax.planning.compiled_step import CompiledStep
from gcvit_flax.planning.costs import Costs, read_costs
from gcvit_flax.planning.estimate import left_out, step_time
from gcvit_flax.planning.known_data import DataSize
from gcvit_flax.planning.topologies import Topology
from gcvit_flax.training.plan import Plan
from gcvit_flax.training.report.timing import peak_flops, training_flops
from gcvit_flax.training.train_config import TrainConfig


def describe_plan(
    config: TrainConfig, model: GCViT, data: DataSize, topology: Topology, step: CompiledStep
) -> dict[str, Any]:
    """The plan of a run whose step is compiled, with what `--json` prints."""
    count = len(topology.devices)
    report: dict[str, Any] = {
        "topology": topology.name,
        "devices": count,
        "hosts": topology.hosts,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(abstract_params(model))),
        "image_size": list(model.preprocessing.image_size),
        "classes": model.config.num_classes,
        "examples": data.examples,
        "dtype": config.dtype,
        "batch_size": step.batch_size,
        "images_per_device": step.batch_size // count,
        "fits": step.needed <= topology.memory,
        "memory": {"needed": step.needed, "available": round(topology.memory)},
        "compile_seconds": round(step.seconds, 1),
    }
    if step.program is not None and step.memory is not None:
        report["memory"] |= dataclasses.asdict(step.memory)
        report |= _program(config, model, data, topology, step.program)
    return report


def _program(
    config: TrainConfig, model: GCViT, data: DataSize, topology: Topology, program: jax.stages.Compiled
) -> dict[str, Any]:
    """What there is to say of the program: on TPUs its operations and time, on GPUs its kernels."""
    peak = peak_flops(topology.devices[0]) or float("inf")
    costs = read_costs(program.as_text() or "", peak, topology.chip.bandwidth)
    if not isinstance(topology.chip, TpuGeneration):
        kernels = {"fusions": costs.fusions, "library_calls": costs.library_calls, "pallas_kernels": costs.kernels}
        return {"kernels": kernels}
    analysis = program.cost_analysis() or {}
    # Of a loop the compiler counts one turn, and the parts of a batch are turns of the only long one.
    counted = {name: analysis.get(name, 0.0) * config.accumulation_steps for name in ("flops", "bytes accessed")}
    report = {"flops": counted["flops"], "bytes_accessed": counted["bytes accessed"]}
    return report | _time(config, model, data, topology, costs, peak)


def _time(
    config: TrainConfig, model: GCViT, data: DataSize, topology: Topology, costs: Costs, peak: float
) -> dict[str, Any]:
    assert isinstance(topology.chip, TpuGeneration)
    count = len(topology.devices)
    time = step_time(costs, topology.chip, count)
    rate = config.global_batch / time.total
    report: dict[str, Any] = {
        "step_seconds": time.total,
        "step_seconds_of": dataclasses.asdict(time),
        "images_per_second": rate,
        "model_flop_utilisation": (training_flops(model) or 0.0) * rate / (peak * count),
        "gathered_or_scattered_elements": costs.sparse_elements,
        "pallas_kernels": costs.kernels,
        "left_out": left_out(costs, topology),
    }
    if data.examples is not None:
        plan = Plan(config, data.examples)
        report |= {"steps": plan.last_step, "epochs": plan.epochs(plan.last_step)}
        report["run_seconds"] = plan.last_step * time.total
    return report
