"""Which devices a run uses, and where compiled programs are kept between runs."""

import contextlib
import os
from pathlib import Path

import jax

from gcvit_flax.errors import UserError


def choose_devices(batch_size: int, count: int | None = None) -> list[jax.Device]:
    """The local devices to spread a batch over: `count` of them, or all.

    On a CPU the default is one simulated device a core, which uses every core for every operation, reduced to the
    largest count that divides the batch. Call it before anything else has made JAX look for devices.

    Raises:
      UserError: (a ValueError) a batch that the devices do not divide, or more devices than there are.
    """
    if count is not None and count < 1:
        raise UserError(f"--devices must be at least 1, got {count}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    on_cpu = count or _largest_divisor(batch_size, cores)
    with contextlib.suppress(RuntimeError):  # JAX is running already, in a notebook or a test: take what it has.
        jax.config.update("jax_num_cpu_devices", on_cpu)  # Without effect on accelerators.
    devices = jax.local_devices()
    if count is not None and count > len(devices):
        raise UserError(f"--devices {count} asked for, but there are {len(devices)}: {devices[0].platform}")
    if count is None and jax.default_backend() == "cpu":
        count = _largest_divisor(batch_size, len(devices))
    devices = devices[:count]
    if batch_size % (len(devices) * jax.process_count()):
        raise UserError(
            f"a batch of {batch_size} does not divide over {len(devices) * jax.process_count()} devices: "
            "change --batch-size or --devices"
        )
    return devices


def _largest_divisor(number: int, limit: int) -> int:
    return max(n for n in range(1, limit + 1) if number % n == 0)


def keep_compiled_programs() -> None:
    """Turns on JAX's persistent compilation cache, in JAX_COMPILATION_CACHE_DIR or ~/.cache/gcvit_flax."""
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "gcvit_flax"))
