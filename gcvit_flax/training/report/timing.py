"""Where a step's time goes, the memory it takes, and how much of the hardware's peak it reaches."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp

from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.model.init import abstract_params
from gcvit_flax.training.report.process_memory import peak_memory_of_process

# Dense FLOP/s of one JAX device in bfloat16 (float16 on V100), from the vendors' data sheets: cloud.google.com/tpu/docs
# and nvidia.com.
_PEAK_FLOPS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "Tesla V100": 125e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40": 181e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H200": 989e12,
}
_TRAINING_FACTOR = 3  # The backward pass is two forward passes' work.


class StepClock:
    """Times steps between two reports, split into waiting for input, waiting for the devices, and the rest."""

    def __init__(self, model: GCViT, batch_size: int, devices: list[jax.Device]):
        self._batch_size, self._devices = batch_size, devices
        # Images per second if all devices did nothing but the model's own operations, at their peak.
        self._peak_rate = None
        peak = peak_flops(devices[0])
        flops = training_flops(model) if peak else None
        if peak and flops:
            self._peak_rate = peak * len(devices) * jax.process_count() / flops
        self.start()

    def start(self) -> None:
        """Starts again from zero, for instance after compiling or evaluating."""
        self._began = time.perf_counter()
        self._steps = 0
        self._waited = {"input": 0.0, "device": 0.0}

    def step(self) -> None:
        """Counts a step."""
        self._steps += 1

    @contextmanager
    def waiting_for(self, what: str) -> Iterator[None]:
        """Counts the block's time as waiting for "input" or "device"."""
        began = time.perf_counter()
        yield
        self._waited[what] += time.perf_counter() - began

    def report(self) -> dict[str, float]:
        """Images per second over all processes, shares of the time, peak memory in GiB, and utilization if known."""
        memory = {"peak_memory_gib": round(peak_memory(self._devices), 3)}
        if not self._steps:
            return memory
        elapsed = time.perf_counter() - self._began
        rate = self._steps * self._batch_size / elapsed
        values = memory | {"images_per_second": round(rate, 2)}
        values |= {f"{what}_share": round(waited / elapsed, 4) for what, waited in self._waited.items()}
        if self._peak_rate:
            values["model_flop_utilisation"] = round(rate / self._peak_rate, 4)
        self.start()
        return values


class EpochClock:
    """Times what lies between two evaluations, and the evaluations themselves."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self.start()

    def start(self) -> None:
        """Starts again from zero, after compiling or evaluating."""
        self._began, self._steps = time.perf_counter(), 0
        self._values: dict[str, float] = {}

    def step(self) -> None:
        """Counts a step."""
        self._steps += 1

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Ends the epoch and times the block, an evaluation."""
        began = time.perf_counter()
        if self._steps:
            rate = self._steps * self._batch_size / (began - self._began)
            self._values["epoch_images_per_second"] = round(rate, 2)
        yield
        self._values["evaluation_seconds"] = round(time.perf_counter() - began, 3)

    def report(self) -> dict[str, float]:
        """The evaluation's seconds, and the images per second since the one before, input and checkpoints included."""
        values = self._values
        self.start()
        return values


def peak_flops(device: jax.Device) -> float | None:
    """The peak FLOP/s of `device` in 16 bits, None if it is not known."""
    names = [name for name in _PEAK_FLOPS if re.match(rf"{name}\b", device.device_kind)]
    return _PEAK_FLOPS[max(names, key=len)] if names else None


def training_flops(model: GCViT) -> float | None:
    """FLOPs of training on one image, three times what XLA counts in the forward pass; None if it does not count."""
    size = model.preprocessing.image_size
    images = jax.ShapeDtypeStruct((1, *size, model.config.in_channels), jnp.float32)
    forward = jax.jit(model.apply).lower({"params": abstract_params(model)}, images)
    flops = (forward.cost_analysis() or {}).get("flops")
    return flops and _TRAINING_FACTOR * flops


def peak_memory(devices: list[jax.Device]) -> float:
    """The peak memory in GiB so far: of the fullest accelerator, or on a CPU of this process."""
    statistics = [device.memory_stats() for device in devices]
    if statistics and all(statistics):
        return max(s["peak_bytes_in_use"] for s in statistics) / 2**30
    return peak_memory_of_process() / 2**30
