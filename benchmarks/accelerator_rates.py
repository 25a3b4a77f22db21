"""Images per second of inference and of the training step, for `benchmarks.accelerator`."""

import dataclasses
import importlib.util
from collections.abc import Iterator
from typing import Any

import jax

from benchmarks.compare import Comparison
from benchmarks.ours import Side, machine
from benchmarks.timing import seconds_of, seconds_per_call
from gcvit_flax.devices import enable_compilation_cache, simulate_devices
from gcvit_flax.errors import UserError
from gcvit_flax.model.gcvit import create_model
from gcvit_flax.training.report.timing import peak_flops, training_flops

_TRAINING_FACTOR = 3  # A training step's work in forward passes.


def measure(work: Comparison, network: dict[str, Any], seconds: float) -> Iterator[dict]:
    """Ours, with `work.batch` images on each device."""
    yield _prepare()
    side = Side(_on_all_devices(work), **network)
    first = seconds_of(side.run)
    taken = seconds_per_call({"ours": side.run}, seconds)["ours"]
    rate = work.batch / taken
    yield (
        {"table": "rates"}
        | _named(work)
        | {
            "images_per_second": rate,
            "milliseconds": taken * 1e3,
            "peak_memory_gib": side.peak_memory(),
            "utilization": _utilization(work, network, rate),
            "first_call_seconds": first,
        }
    )


def measure_beside_timm(work: Comparison, seconds: float) -> Iterator[dict]:
    """Ours and timm's in turns; timm on one device.

    Raises:
      UserError: (a ValueError) there is no timm, or no PyTorch for this accelerator.
    """
    if any(importlib.util.find_spec(name) is None for name in ("torch", "timm")):
        raise UserError("PyTorch and timm are not installed here")
    import torch

    from benchmarks.timm_peer import Side as TimmSide

    yield _prepare()
    if jax.default_backend() != ("gpu" if torch.cuda.is_available() else "cpu"):
        raise UserError(f"PyTorch {torch.__version__} does not have JAX's accelerator")
    timm = TimmSide(dataclasses.replace(work, compile_peer=True))
    ours = Side(_on_all_devices(work))
    times = seconds_per_call({"timm": timm.run, "ours": ours.run}, seconds)
    rates = {name: work.batch / taken for name, taken in times.items()}
    memory = {f"{name}_peak_memory_gib": side.peak_memory() for name, side in (("timm", timm), ("ours", ours))}
    yield (
        {"table": "timm"} | _named(work) | rates | {"ratio": times["timm"] / times["ours"], "what": timm.what} | memory
    )


def _prepare() -> dict:
    simulate_devices(1)  # A CPU is one device, as timm takes it.
    enable_compilation_cache()
    return machine()


def _on_all_devices(work: Comparison) -> Comparison:
    return dataclasses.replace(work, batch=work.batch * jax.local_device_count())


def _named(work: Comparison) -> dict[str, Any]:
    return {name: getattr(work, name) for name in ("task", "variant", "batch", "dtype")}


def _utilization(work: Comparison, network: dict[str, Any], rate: float) -> float | None:
    """The share of the peak FLOP/s that the network's own operations take, None where it is not known."""
    peak = peak_flops(jax.local_devices()[0])
    flops = training_flops(create_model(work.variant, image_size=work.image_size, **network)) if peak else None
    if not peak or not flops or work.dtype != "bfloat16":
        return None
    return rate * (flops if work.task == "train" else flops / _TRAINING_FACTOR) / peak
