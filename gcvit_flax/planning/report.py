"""What a plan says, as numbers and as text."""

import dataclasses
from typing import Any

import jax

from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.model.init import abstract_params
from gcvit_flax.planning.chips import GIB, TpuGeneration
from gcvit_flax.planning.compiled_step import CompiledStep
from gcvit_flax.planning.costs import Costs, read_costs
from gcvit_flax.planning.estimate import left_out, step_time
from gcvit_flax.planning.known_data import DataSize
from gcvit_flax.planning.topologies import Topology
from gcvit_flax.training.plan import Plan
from gcvit_flax.training.report.timing import peak_flops, training_flops
from gcvit_flax.training.train_config import TrainConfig

_SECONDS_A_DAY = 24 * 60 * 60


def describe_plan(
    config: TrainConfig, model: GCViT, data: DataSize, topology: Topology, step: CompiledStep
) -> dict[str, Any]:
    """The plan of a run whose step is compiled, with what `--json` prints: sizes in bytes, times in seconds."""
    count = len(topology.devices)
    report: dict[str, Any] = {
        "topology": topology.name,
        "devices": count,
        "hosts": topology.hosts,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(abstract_params(model))),
        "image_size": list(model.preprocessing.image_size),
        "classes": model.config.num_classes,
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
        report["days"] = plan.last_step * time.total / _SECONDS_A_DAY
    return report


def as_text(report: dict[str, Any], preset: str) -> str:
    """The table that a plan prints."""
    size, chips = "x".join(map(str, report["image_size"])), report["devices"]
    hosts = f" of {report['hosts']} hosts" if report["hosts"] > 1 else ""
    rows = [
        ("run", f"{preset}: {report['parameters']:,} parameters, {size} px, {report['classes']:,} classes"),
        ("devices", f"{report['topology']}: {chips} device{'s'[: chips > 1]}{hosts}, {report['dtype']}"),
        ("batch", f"{report['batch_size']:,} images, {report['images_per_device']:,} a device"),
        ("memory", _memory(report)),
    ]
    if "largest_batch_size" in report:
        rows.append(("largest batch", _largest(report)))
    if "flops" in report:
        rows.append(
            (
                "operations",
                f"{report['flops'] / 1e12:,.2f} TFLOP, {_gib(report['bytes_accessed'])} moved, a device and step",
            )
        )
    if "kernels" in report:
        rows.append(("kernels", ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in report["kernels"].items())))
    if "step_seconds" in report:
        rows += _time_rows(report)
    rows.append(("compiled in", f"{report['compile_seconds']:,.0f} s"))
    text = "\n".join(f"{name:14} {value}" for name, value in rows)
    if "left_out" in report:
        text += "\n\nThe times are the compiler's estimates, not measured. They leave out:\n"
        text += "\n".join(f"- {words}" for words in report["left_out"])
    return text


def _memory(report: dict[str, Any]) -> str:
    memory = report["memory"]
    verdict = "fits" if report["fits"] else "does not fit"
    line = f"{verdict}: {_gib(memory['needed'])} a device of {_gib(memory['available'])}"
    if "code" in memory:
        parts = (f"{name} {_gib(memory[key])}" for name, key in _MEMORY_PARTS.items() if memory[key])
        line += f" ({', '.join(parts)})"
    return line


_MEMORY_PARTS = {"state and batch": "arguments", "temporaries": "temporaries", "program": "code"}


def _largest(report: dict[str, Any]) -> str:
    if report["largest_batch_size"] is None:
        return "none that was compiled fits"
    share = report["largest_batch_size"] // report["devices"]
    return (
        f"{report['largest_batch_size']:,} images, {share:,} a device: {_gib(report['largest_batch_needed'])}, compiled"
    )


def _time_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    parts = report["step_seconds_of"]
    named = (f"{name.replace('_', '-')} {1000 * seconds:,.1f}" for name, seconds in parts.items() if seconds)
    utilization = f"{report['model_flop_utilisation']:.0%} of the chips' peak"
    rows = [
        ("a step", f"{1000 * report['step_seconds']:,.1f} ms ({', '.join(named)})"),
        ("images a second", f"{report['images_per_second']:,.0f}, {utilization}"),
    ]
    if "days" in report:
        rows.append(
            ("the run", f"{report['epochs']:,.0f} epochs, {report['steps']:,} steps: {report['days']:,.2f} days")
        )
    return rows


def _gib(count: float) -> str:
    return f"{count / GIB:,.2f} GiB"
