"""Orbax checkpoints of the whole training state: parameters, optimiser and step."""

from pathlib import Path
from types import TracebackType

import jax
import orbax.checkpoint as ocp
from flax.training.train_state import TrainState

from gcvit_flax.errors import UserError

_KEPT = 2


class Checkpoints:
    """The checkpoints of one run, written in the background; leave the `with` block to wait for the last one."""

    def __init__(self, folder: Path):
        options = ocp.CheckpointManagerOptions(max_to_keep=_KEPT, create=True)
        self._folder = folder
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._manager.close()

    @property
    def latest_step(self) -> int | None:
        """The step of the newest whole checkpoint, None without one."""
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Saves `state` under its step, unless that step is saved already.

        The state is the same on every device, so it goes to disk as host arrays that the first process writes; given
        device arrays, Orbax would compile a slicing program for each of them.
        """
        step = int(state.step)
        if step != self.latest_step:
            self._manager.save(step, args=ocp.args.StandardSave(jax.device_get(_to_tree(state))))

    def restore(self, state: TrainState) -> TrainState:
        """The newest checkpoint, in the layout and on the devices of `state`.

        Raises:
          UserError: (a ValueError) a checkpoint that does not fit `state` or is damaged.
        """
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), _to_tree(state))
        try:
            tree = self._manager.restore(self.latest_step, args=ocp.args.StandardRestore(like))
        except Exception as error:  # Orbax and TensorStore raise many types for what is missing or of other shapes.
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(
                f"checkpoint {self.latest_step} in {self._folder} cannot be restored ({reason}): "
                "remove that step's folder to go on from an earlier one, or start afresh with --no-resume"
            ) from error
        return state.replace(**tree)


def _to_tree(state: TrainState) -> dict:
    return {"step": state.step, "params": state.params, "opt_state": state.opt_state}
