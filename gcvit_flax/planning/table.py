"""What a plan says, as a table."""

from typing import Any

from gcvit_flax.planning.chips import GIB

_MEMORY_PARTS = {"arguments": "state and batch", "temporaries": "temporaries", "code": "program"}
_SECONDS = {"days": 24 * 60 * 60, "hours": 60 * 60, "minutes": 60, "seconds": 1}


def as_table(report: dict[str, Any], preset: str) -> str:
    """The report of `describe_plan`, for people."""
    rows = {"run": _run(report, preset), "devices": _devices(report), "batch": _batch(report, report["batch_size"])}
    rows["memory"] = _memory(report)
    if "largest_batch_size" in report:
        rows["largest batch"] = _largest(report)
    if "flops" in report:
        moved = _gib(report["bytes_accessed"])
        rows["work of a step"] = f"{report['flops'] / 1e9:,.1f} GFLOP and {moved} moved, a device"
    if "kernels" in report:
        rows["kernels"] = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in report["kernels"].items())
    if "step_seconds" in report:
        rows |= _times(report)
    rows["compiled in"] = f"{report['compile_seconds']:,.0f} s"
    lines = [f"{name:15} {value}" for name, value in rows.items()]
    if "left_out" in report:
        lines += ["", "Times are the compiler's estimates, nothing was measured. They leave out:"]
        lines += [f"- {words}" for words in report["left_out"]]
    return "\n".join(lines)


def _run(report: dict[str, Any], preset: str) -> str:
    size = "x".join(map(str, report["image_size"]))
    return f"{preset}: {report['parameters']:,} parameters, {size} px, {report['classes']:,} classes, {report['dtype']}"


def _devices(report: dict[str, Any]) -> str:
    hosts = f" of {report['hosts']} hosts" if report["hosts"] > 1 else ""
    return f"{report['topology']}: {report['devices']} device{'s'[: report['devices'] > 1]}{hosts}"


def _batch(report: dict[str, Any], batch_size: int) -> str:
    return f"{batch_size:,} images, {batch_size // report['devices']:,} a device"


def _memory(report: dict[str, Any]) -> str:
    memory = report["memory"]
    verdict = "fits" if report["fits"] else "does not fit"
    parts = [f"{name} {memory[key] / GIB:,.2f}" for key, name in _MEMORY_PARTS.items() if memory.get(key)]
    details = f" ({', '.join(parts)})" if parts else ""
    return f"{verdict}: {memory['needed'] / GIB:,.2f} of {_gib(memory['available'])} a device{details}"


def _largest(report: dict[str, Any]) -> str:
    size = report["largest_batch_size"]
    if size is None:
        return "none that was compiled fits"
    bound = f"; the data has {report['examples']:,}" if report["examples"] and size > 0.9 * report["examples"] else ""
    return f"{_batch(report, size)}: {_gib(report['largest_batch_needed'])}, compiled{bound}"


def _times(report: dict[str, Any]) -> dict[str, str]:
    parts = report["step_seconds_of"]
    named = (f"{name.replace('_', '-')} {1000 * seconds:,.1f}" for name, seconds in parts.items() if seconds)
    used = f"{report['model_flop_utilisation']:.1%} of the chips' peak"
    rows = {
        "time of a step": f"{1000 * report['step_seconds']:,.1f} ms ({', '.join(named)})",
        "throughput": f"{report['images_per_second']:,.0f} images/s, {used}",
    }
    if "run_seconds" in report:
        steps = f"{report['steps']:,} steps, {report['epochs']:,.1f} epochs"
        rows["time of the run"] = f"{_duration(report['run_seconds'])} ({steps})"
    return rows


def _duration(seconds: float) -> str:
    """In the largest unit of which there is at least one."""
    name = next((name for name, length in _SECONDS.items() if seconds >= length), "seconds")
    return f"{seconds / _SECONDS[name]:,.1f} {name}"


def _gib(count: float) -> str:
    return f"{count / GIB:,.2f} GiB"
