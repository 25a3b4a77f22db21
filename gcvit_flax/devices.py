"""Which devices a run uses, and where compiled programs are kept between runs."""

import contextlib
import os
from pathlib import Path

import jax

from gcvit_flax.errors import UserError


def simulate_devices(count: int | None = None) -> None:
    """Makes `count` devices of a CPU, or one a core, so that every core works on every operation.

    Call it before anything else has made JAX look for devices; later, and on accelerators, it is without effect.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with contextlib.suppress(RuntimeError):  # JAX is running already, in a notebook or a test: take what it has.
        jax.config.update("jax_num_cpu_devices", count or cores)


def choose_devices(batch_size: int, count: int | None = None) -> list[jax.Device]:
    """The local devices to spread a batch over: `count` of them, or all; on a CPU, as many as divide the batch.

    Raises:
      UserError: (a ValueError) a batch that the devices do not divide, or more devices than there are.
    """
    devices, processes = jax.local_devices(), jax.process_count()
    if count is not None and not 1 <= count <= len(devices):
        raise UserError(f"--devices must be from 1 to {len(devices)}, the number there are, got {count}")
    if count is not None and processes > 1 and count != len(devices):
        raise UserError(f"--devices {count} of {len(devices)} is for one host alone: leave it out where several train")
    if count is None and processes == 1 and jax.default_backend() == "cpu":
        count = _largest_divisor(batch_size, len(devices))
    devices = devices[:count]
    if batch_size % (len(devices) * processes):
        raise UserError(
            f"a batch of {batch_size} does not divide over {len(devices) * processes} devices: "
            "change --batch-size or --devices"
        )
    return devices


def _largest_divisor(number: int, limit: int) -> int:
    return max(n for n in range(1, limit + 1) if number % n == 0)


def keep_compiled_programs() -> None:
    """Turns on JAX's persistent compilation cache, in JAX_COMPILATION_CACHE_DIR or ~/.cache/gcvit_flax."""
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "gcvit_flax"))
