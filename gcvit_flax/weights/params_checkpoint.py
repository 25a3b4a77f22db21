"""Parameters as an Orbax checkpoint, written and read by one process alone."""

import logging
from collections.abc import Mapping

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from gcvit_flax.config import GCViTConfig
from gcvit_flax.errors import UserError, summarize_error
from gcvit_flax.weights.tree import check_same_names_and_shapes, flatten, parameter_shapes, unflatten

# What Orbax logs of checkpoints without a score, and of errors that it raises as well.
_NOISE = ("tracked_metric", "_SignalingThread.run() raised")
logging.getLogger("absl").addFilter(lambda record: not any(noise in record.getMessage() for noise in _NOISE))


def save_params(checkpoint: epath.Path, flat: Mapping[str, np.ndarray]) -> None:
    """Writes flat parameters into the new folder `checkpoint`, all or nothing.

    Raises:
      UserError: (a ValueError) they cannot be written.
    """
    try:
        with _checkpointer() as checkpointer:
            checkpointer.save(checkpoint, args=ocp.args.PyTreeSave(unflatten(flat)))
    except Exception as error:  # A full disk has many types here: OSError, or TensorStore's ValueError.
        for partial in checkpoint.parent.glob(f"{checkpoint.name}*"):
            partial.rmtree(missing_ok=True)
        folder, reason = checkpoint.parent, summarize_error(error)
        raise UserError(f"the model cannot be written to {folder} ({reason}): make room or choose another") from error


def restore_params(checkpoint: epath.Path, config: GCViTConfig) -> dict[str, np.ndarray]:
    """The flat parameters in the folder `checkpoint`, on the host.

    Raises:
      UserError: (a ValueError) they are missing or damaged, or not those of a network of this `config`.
    """
    advice = "convert or train the model again"
    expected = parameter_shapes(config)
    with _checkpointer() as checkpointer:
        try:
            stored = checkpointer.metadata(checkpoint).item_metadata
        except FileNotFoundError:
            stored = None
        if stored is None:  # Orbax's answer where its own metadata does not parse.
            raise UserError(f"{checkpoint} is missing or damaged: {advice}")
        what = f"{checkpoint} does not fit its config.json"
        check_same_names_and_shapes(flatten(stored.tree), expected, what, advice)
        try:
            # Saved from NumPy arrays, they come back as such, whatever devices are here.
            return flatten(checkpointer.restore(checkpoint))
        except Exception as error:  # TensorStore raises many types for files that are gone or cut short.
            raise UserError(f"{checkpoint} is missing or damaged ({summarize_error(error)}): {advice}") from error


def _checkpointer() -> ocp.Checkpointer:
    # Without the options Orbax waits for the other processes.
    me = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"model_folder_{me}"
    )
    # Weights hardly compress, and trying costs more time and memory than all else.
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=options)
