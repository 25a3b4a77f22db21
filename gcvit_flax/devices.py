"""Which devices a run uses, and where compiled programs are kept between runs."""

import contextlib
import ctypes
import logging
import os
import tempfile

import jax
from etils import epath

from gcvit_flax.errors import UserError

logger = logging.getLogger("gcvit_flax")

_PROBE_BYTES = 2**20  # As large as a compiled program, to see whether there is room.


def simulate_devices(count: int | None = None) -> None:
    """Makes `count` devices of a CPU, or one a core, so that every core works on every operation.

    Call it before anything else has made JAX look for devices; later, and on accelerators, it is without effect.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with contextlib.suppress(RuntimeError):  # JAX is running already, in a notebook or a test: take what it has.
        jax.config.update("jax_num_cpu_devices", count or cores)


def compiler_options(device: jax.Device) -> dict[str, str]:
    """XLA options for `jax.jit` or `compile` that training needs on a device, or does better with.

    XLA:CPU removes optimization barriers before it looks for what to fuse and what is computed twice; then the backward
    pass computes nothing anew and takes twice the memory. On gcvit_xxtiny at batch 8: 704 to 296 MB on each of two
    devices, before and after all that these barriers allow.
    """
    return {"xla_disable_hlo_passes": "cse_barrier_expander"} if device.platform == "cpu" else {}


def release_compiler_memory() -> None:
    """Gives the system back what compiling leaves in glibc's heap, about 900 MB after a training step's."""
    with contextlib.suppress(OSError, AttributeError):  # Another C library.
        ctypes.CDLL(None).malloc_trim(0)


def choose_devices(batch_size: int, count: int | None = None, unit: int = 1) -> list[jax.Device]:
    """The local devices to spread a batch over: `count` of them, or all; on a CPU, as many as divide the batch.

    Each device's share must be a multiple of `unit`.

    Raises:
      UserError: (a ValueError) a batch that the devices do not divide, or more devices than there are.
    """
    devices, processes = jax.local_devices(), jax.process_count()
    if count is not None and not 1 <= count <= len(devices):
        raise UserError(f"--devices must be from 1 to {len(devices)}, the number there are, got {count}")
    if count is not None and processes > 1 and count != len(devices):
        raise UserError(f"--devices {count} of {len(devices)} is for one host alone: leave it out where several train")
    if count is None and processes == 1 and jax.default_backend() == "cpu":
        count = max((n for n in range(1, len(devices) + 1) if batch_size % (n * unit) == 0), default=None)
    devices = devices[:count]
    multiple = len(devices) * processes * unit
    if batch_size % multiple:
        shares = f" in shares that are multiples of {unit}" if unit > 1 else ""
        raise UserError(
            f"a batch of {batch_size} does not divide over {len(devices) * processes} devices{shares}: "
            f"make --batch-size a multiple of {multiple}, or change --devices"
        )
    return devices


def enable_compilation_cache() -> None:
    """Turns on JAX's persistent compilation cache, in JAX_COMPILATION_CACHE_DIR or ~/.cache/gcvit_flax.

    Where nothing can be written there, a warning says so and every program is compiled anew.
    """
    folder = epath.Path(jax.config.jax_compilation_cache_dir or os.path.expanduser("~/.cache/gcvit_flax"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if "://" not in str(folder):
            with tempfile.TemporaryFile(dir=folder) as probe:
                probe.write(bytes(_PROBE_BYTES))
        jax.config.update("jax_compilation_cache_dir", str(folder))
    except OSError as error:
        jax.config.update("jax_compilation_cache_dir", None)
        logger.warning(
            "compiled programs cannot be kept (%s): every run compiles anew; free the folder or set "
            "JAX_COMPILATION_CACHE_DIR to another",
            error,
        )
