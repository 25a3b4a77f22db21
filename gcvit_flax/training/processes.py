"""Several processes as one run: joining, failing together, and what the first does alone."""

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from gcvit_flax.errors import UserError, summarize_error

# A process that fails must not keep the others waiting for minutes at the exit.
_SHUTDOWN_SECONDS = 20
# JAX sends a heartbeat at every half of this, so it may miss one after half of it: later than peer_watch.py notices.
_HEARTBEAT_SECONDS = 120


def join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Connects this process to the run's others, if there are any; call it before JAX looks for devices.

    Without arguments, JAX detects the others on Cloud TPU, Slurm, Open MPI and Kubernetes or by
    JAX_COORDINATOR_ADDRESS; elsewhere the process runs alone.

    Raises:
      UserError: (a ValueError) arguments that are incomplete, or processes that cannot be reached.
    """
    if jax.distributed.is_initialized():
        return
    asked = (coordinator, num_processes, process_id) != (None, None, None)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except ValueError as error:  # JAX's answer if it finds no cluster.
        if asked:
            raise UserError(
                f"the processes cannot be joined ({error}): give --coordinator HOST:PORT, --num-processes and "
                "--process-id to each of them"
            ) from error
    except RuntimeError as error:
        if not asked and "must be called before" in str(error):
            return  # In a notebook or a test, JAX is running already, on its own.
        raise UserError(
            f"the processes cannot be joined ({summarize_error(error)}): check that --coordinator is the first host's "
            "address and a free port there, that every host runs the command, and that each has its own --process-id"
        ) from error


def is_first() -> bool:
    """Whether this process is the one that writes logs and the model folder, and prints."""
    return jax.process_index() == 0


def count() -> int:
    """How many processes train together."""
    return jax.process_count()


def wait_for_all(name: str) -> None:
    """Blocks until every process has reached the barrier called `name`."""
    multihost_utils.sync_global_devices(name)


def gather(number: int) -> list[int]:
    """The `number` (32 bits, not negative) of each process."""
    return multihost_utils.process_allgather(np.uint32(number)).ravel().tolist()


def check_equal(what: str, facts: Any) -> None:
    """Compares `facts`, any value that JSON can hold, among all processes.

    Raises:
      UserError: (a ValueError) they differ.
    """
    if count() > 1:
        checksum = zlib.crc32(json.dumps(facts, sort_keys=True).encode())
        if len(set(gather(checksum))) > 1:
            raise UserError(f"the processes have different {what}: start the same command on all, with the same files")


def from_first(fact: bool) -> bool:
    """What the first process says, for facts that others might read from files not yet as it does."""
    return bool(multihost_utils.broadcast_one_to_all(np.array(fact)))


@contextmanager
def raising_together() -> Iterator[None]:
    """Raises in all processes if the block raises in one, instead of leaving them waiting.

    Raises:
      UserError: (a ValueError) another process failed.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as own_error:
        error = own_error
    if count() > 1:
        failed = multihost_utils.process_allgather(np.array(error is not None))
        if error is None and failed.any():
            raise UserError(f"process {int(failed.argmax())} failed: see its own message for what to do")
    if error is not None:
        raise error
