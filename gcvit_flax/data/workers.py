"""What worker processes that decode images need: staying when a run is told to stop, ending with it, and memory."""

import contextlib
import functools
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker

import grain

logger = logging.getLogger("gcvit_flax")

# Systemd, Slurm and Kubernetes send these to every process of a run, and a terminal does so on Ctrl-C.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_SHARED_MEMORY = "/dev/shm"
# Batches that are shared at a time: each worker makes one while one waits and one is sent; the trainer holds some more.
_BATCHES_PER_WORKER, _BATCHES_OF_TRAINER = 3, 4


@contextlib.contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Processes that are started inside the block never receive STOP_SIGNALS: they inherit this thread's mask.

    The run itself does, in any of its other threads, or else after the block.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    resource_tracker.ensure_running()  # Starts with the first worker otherwise, and unblocks two of the signals.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(*_: int) -> None:
    """In a worker process: ends it as soon as the process that started it is gone, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@functools.cache  # One warning, though every evaluation starts workers.
def transport_options(workers: int, batch_bytes: int) -> grain.experimental.DatasetOptions:
    """How batches of `batch_bytes` bytes come from `workers` processes: in shared memory, or else through pipes.

    Docker gives a container 64 MB of shared memory, and a process that writes beyond its end is killed by SIGBUS.
    """
    needed = (_BATCHES_PER_WORKER * workers + _BATCHES_OF_TRAINER) * batch_bytes
    if not os.path.isdir(_SHARED_MEMORY) or (free := shutil.disk_usage(_SHARED_MEMORY).free) >= needed:
        return grain.experimental.DatasetOptions()
    logger.warning(
        "%s has %.0f MB free, and %d workers need %.0f MB: batches come through pipes, which is slower; give a "
        "container more (docker run --shm-size=%dg), or use fewer --workers",
        *(_SHARED_MEMORY, free / 1e6, workers, needed / 1e6, -(-needed // 2**30)),
    )
    return grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
