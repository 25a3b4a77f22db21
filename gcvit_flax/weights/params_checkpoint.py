"""Parameters as an Orbax checkpoint, which each process writes or reads on its own."""

import contextlib
import logging
import time
from collections.abc import Mapping

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint._src.serialization import tensorstore_utils  # For what Orbax has no option for.

from gcvit_flax.config import GCViTConfig
from gcvit_flax.errors import UserError, summarize_error
from gcvit_flax.model.tree import check_same_names_and_shapes, flatten, parameter_shapes, unflatten
from gcvit_flax.storage import children
from gcvit_flax.weights.checksums import find_damage, write_checksums

_REMOVALS, _REMOVAL_SECONDS = 50, 0.1  # The most attempts, and the pause between two.

# What Orbax logs about checkpoints without a metric, and about errors that it also raises; asyncio logs those of its
# tasks that had not ended when the first one failed.
_NOISE = ("tracked_metric", "_SignalingThread.run() raised", "NumpyHandler._open_and_write()", "OCDBT database")
for _name in ("absl", "asyncio"):
    logging.getLogger(_name).addFilter(
        lambda record: (
            not (record.name == "absl" and record.exc_info)
            and not any(noise in record.getMessage() for noise in _NOISE)
        )
    )

# A request that Cloud Storage answers with an error is repeated after 1, 2, 4, 8 and 16 seconds, as gcsfs does it.
# TensorStore's own choice is 32 times, a quarter of an hour, for which a run that is to end would wait.
for _context in (tensorstore_utils._BASE_TS_CONTEXT, tensorstore_utils._DEFAULT_OCDBT_TS_CONTEXT):
    _context["gcs_request_retries"] = {"max_retries": 5}


def save_params(checkpoint: epath.Path, flat: Mapping[str, np.ndarray]) -> None:
    """Writes the flat parameters into the new folder `checkpoint`, all or nothing.

    Raises:
      UserError: (a ValueError) they cannot be written.
    """
    try:
        with _checkpointer() as checkpointer:
            checkpointer.save(checkpoint, args=ocp.args.PyTreeSave(unflatten(flat)))
        write_checksums(checkpoint)
    except Exception as error:  # A full disk raises OSError here, or TensorStore's ValueError.
        _remove_unfinished(checkpoint)
        folder, reason = checkpoint.parent, summarize_error(error)
        raise UserError(f"the model cannot be written to {folder} ({reason}): make room or choose another") from error


def _remove_unfinished(checkpoint: epath.Path) -> None:
    """Removes `checkpoint` and Orbax's temporary folder, until both stay away.

    After one write has failed, TensorStore's others go on for a moment, and make folders that are gone again.
    """
    absences = 0
    for _ in range(_REMOVALS):
        # The temporary folder has a suffix.
        left = [path for path in children(checkpoint.parent) if path.name.startswith(checkpoint.name)]
        absences = 0 if left else absences + 1
        if absences == 2:
            return
        for path in left:
            with contextlib.suppress(OSError):  # A file has come while the folder was being emptied.
                path.rmtree(missing_ok=True)
        time.sleep(_REMOVAL_SECONDS)


def restore_params(checkpoint: epath.Path, config: GCViTConfig) -> dict[str, np.ndarray]:
    """The flat parameters in the folder `checkpoint`, as NumPy arrays.

    Raises:
      UserError: (a ValueError) they are missing or damaged, or not those of a network of this `config`.
    """
    advice = "convert or train the model again"
    expected = parameter_shapes(config)
    try:
        damage = find_damage(checkpoint)
    except FileNotFoundError:  # Another process is replacing the model.
        damage = f"{checkpoint} is missing"
    if damage:
        raise UserError(f"{damage}: {advice}")
    with _checkpointer() as checkpointer:
        try:
            stored = checkpointer.metadata(checkpoint).item_metadata
        except Exception:  # Orbax raises many types for metadata that are JSON but not its own.
            stored = None
        if stored is None:  # Orbax returns None if it cannot parse its own metadata.
            raise UserError(f"{checkpoint} is missing or damaged: {advice}")
        what = f"{checkpoint} does not fit its config.json"
        check_same_names_and_shapes(flatten(stored.tree), expected, what, advice)
        try:
            # They were saved from NumPy arrays and are restored as such, whatever devices are present.
            return flatten(checkpointer.restore(checkpoint))
        except Exception as error:  # TensorStore raises many types for missing or truncated files.
            raise UserError(f"{checkpoint} is missing or damaged ({summarize_error(error)}): {advice}") from error


def _checkpointer() -> ocp.Checkpointer:
    # Without these options Orbax would wait for the other processes.
    process = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"model_folder_{process}"
    )
    # Weights hardly compress, and compressing would take most of the time and memory.
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=options)
