"""The devices of a run, and the cache of compiled programs."""

import contextlib
import ctypes
import logging
import os
import tempfile

import jax

from gcvit_flax.errors import UserError
from gcvit_flax.storage import absolute, is_remote

logger = logging.getLogger("gcvit_flax")

_LEAST_SECONDS = "jax_persistent_cache_min_compile_time_secs"
_JAX_LEAST_SECONDS = 1.0  # Unless the user has chosen.
_PROBE_BYTES = 2**20  # As large as a compiled program, to find out whether there is room for one.


def simulate_devices(count: int | None = None) -> None:
    """Splits the CPU into `count` devices, by default one per core, so that every core works on every operation.

    Call it before JAX looks for devices; later, and on accelerators, it has no effect.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with contextlib.suppress(RuntimeError):  # JAX is already initialized, in a notebook or a test: keep its devices.
        jax.config.update("jax_num_cpu_devices", count or cores)


def compiler_options(device: jax.Device) -> dict[str, str]:
    """XLA options for `jax.jit` or `compile` with which a training step takes less memory on a device.

    XLA:CPU removes optimization barriers before fusion and the elimination of common subexpressions, which undoes
    rematerialization: the backward pass then recomputes nothing and takes twice the memory (docs/performance.md).
    """
    # XLA:CPU of JAX 0.12 cannot compile the barriers that this keeps.
    keeps_barriers = device.platform == "cpu" and jax.__version_info__ < (0, 11)
    return {"xla_disable_hlo_passes": "cse_barrier_expander"} if keeps_barriers else {}


def inference_options(device: jax.Device) -> dict[str, str]:
    """XLA options for `jax.jit` with which a forward pass is faster on a device.

    YNNPACK, which XLA:CPU computes with, does not divide a convolution among the cores; Eigen does, where a single
    device has them all. gcvit_xxtiny takes 34 instead of 36 ms for one image (docs/performance.md).
    """
    # Names of XLA, which others may have in other versions.
    if device.platform != "cpu" or jax.__version_info__ >= (0, 11):
        return {}
    return {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


def release_compiler_memory() -> None:
    """Returns the free memory in glibc's heap to the system: about 900 MB after a training step is compiled."""
    with contextlib.suppress(OSError, AttributeError):  # Another C library.
        ctypes.CDLL(None).malloc_trim(0)


def choose_devices(batch_size: int, count: int | None = None, unit: int = 1) -> list[jax.Device]:
    """The local devices to spread a batch over: `count` of them, or all; on a CPU, the most that divide the batch.

    Each device's share must be a multiple of `unit`.

    Raises:
      UserError: (a ValueError) a batch that cannot be split equally, or more devices than there are.
    """
    devices, processes = jax.local_devices(), jax.process_count()
    if count is not None and not 1 <= count <= len(devices):
        raise UserError(f"--devices must be from 1 to {len(devices)}, the number there are, got {count}")
    if count is not None and processes > 1 and count != len(devices):
        raise UserError(f"--devices {count} of {len(devices)} is for a single process: leave it out when several train")
    if count is None and processes == 1 and jax.default_backend() == "cpu":
        count = max((n for n in range(1, len(devices) + 1) if batch_size % (n * unit) == 0), default=None)
    devices = devices[:count]
    check_divides(batch_size, len(devices) * processes, unit, "--devices")
    return devices


def check_divides(batch_size: int, devices: int, unit: int, option: str) -> None:
    """Raises UserError unless a batch can be split equally over devices, in shares that are multiples of `unit`.

    `option` is what the message calls the option that chooses the devices.
    """
    if batch_size % (devices * unit):
        shares = f" in shares that are multiples of {unit}" if unit > 1 else ""
        raise UserError(
            f"a batch of {batch_size} does not divide over {devices} devices{shares}: "
            f"make --batch-size a multiple of {devices * unit}, or change {option}"
        )


def enable_compilation_cache() -> None:
    """Turns on JAX's persistent compilation cache, in JAX_COMPILATION_CACHE_DIR or ~/.cache/gcvit_flax.

    A folder of this machine keeps every program, a bucket those that take a second to compile, unless JAX's own setting
    of that time has been changed. If the folder cannot be written to, a warning is logged and every program is compiled
    again.
    """
    chosen: str | None = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]  # Set up at run time.
    try:
        folder = absolute(chosen or os.path.expanduser("~/.cache/gcvit_flax"))
        if not is_remote(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as probe:
                probe.write(bytes(_PROBE_BYTES))
            if getattr(jax.config, _LEAST_SECONDS) == _JAX_LEAST_SECONDS:
                jax.config.update(_LEAST_SECONDS, 0.0)  # Even short programs are read faster than compiled.
        jax.config.update("jax_compilation_cache_dir", str(folder))
    except (UserError, OSError) as error:
        jax.config.update("jax_compilation_cache_dir", None)
        logger.warning(
            "compiled programs cannot be kept (%s): every run compiles them again; make room in the folder or set "
            "JAX_COMPILATION_CACHE_DIR to another",
            error,
        )
