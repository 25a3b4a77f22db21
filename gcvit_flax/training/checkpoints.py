"""Orbax checkpoints of the whole training state: parameters, their average, optimiser and step."""

from types import TracebackType

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from gcvit_flax.errors import UserError, summarize_error
from gcvit_flax.training.steps import TrainState

_SAVED = ("step", "params", "opt_state", "ema_params")


class Checkpoints:
    """The checkpoints of one run: the last `keep` and the best.

    They are written in the background; leave the `with` block to wait for the last one. All processes take part in
    every call.
    """

    def __init__(self, folder: epath.Path, keep: int):
        latest = preservation_policy.LatestN(keep)
        best = preservation_policy.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            best_fn=_score,  # Without it, scores would not be stored, and a resumed run would forget the best.
            preservation_policy=preservation_policy.AnyPreservationPolicy([latest, best]),
            cleanup_tmp_directories=True,
        )
        self._folder = folder
        self._manager = ocp.CheckpointManager(folder, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._manager.close()
        except Exception as closing_error:
            if error is None:  # Else the block's own error is the one to tell.
                raise _cannot_save(self._folder, closing_error) from closing_error

    @property
    def latest_step(self) -> int | None:
        """The step of the newest whole checkpoint, None without one."""
        return self._manager.latest_step()

    def save(self, state: TrainState, score: float | None = None) -> None:
        """Saves `state` under its step, unless that step is saved already; `score` (higher is better) ranks it.

        The state is the same on every device, so it goes to disk as host arrays that the first process writes; given
        device arrays, Orbax would compile a slicing program for each of them.

        Raises:
          UserError: (a ValueError) this or the last checkpoint cannot be written; earlier ones are intact.
        """
        step = int(state.step)
        if step == self.latest_step:
            return
        metrics = None if score is None else {"score": score}
        try:
            self._manager.save(step, args=ocp.args.StandardSave(jax.device_get(_to_tree(state))), metrics=metrics)
        except Exception as error:  # A full disk has many types here: OSError, or TensorStore's ValueError.
            raise _cannot_save(self._folder, error) from error

    def wait(self) -> None:
        """Returns once all that was saved is on disk.

        Raises:
          UserError: (a ValueError) the last checkpoint cannot be written; earlier ones are intact.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise _cannot_save(self._folder, error) from error

    def restore(self, state: TrainState) -> TrainState:
        """The newest checkpoint as host arrays, for any number of devices; `state` gives names, shapes and dtypes.

        Raises:
          UserError: (a ValueError) a checkpoint that does not fit `state` or is damaged.
        """
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _to_tree(state))
        try:
            tree = self._manager.restore(self.latest_step, args=ocp.args.StandardRestore(like))
            jax.tree_util.tree_map_with_path(_check_shape, like, tree)  # Orbax gives whatever shapes it finds.
        except Exception as error:  # Orbax and TensorStore raise many types for what is missing or of other shapes.
            raise UserError(
                f"checkpoint {self.latest_step} in {self._folder} cannot be restored ({summarize_error(error)}): "
                "remove that step's folder to go on from an earlier one, or start afresh with --no-resume"
            ) from error
        return state.replace(**tree)


def _score(metrics: dict[str, float]) -> float:
    return metrics["score"]


def _to_tree(state: TrainState) -> dict:
    return {name: getattr(state, name) for name in _SAVED if getattr(state, name) is not None}


def _check_shape(path, expected: jax.ShapeDtypeStruct, found) -> None:
    if found.shape != expected.shape:
        raise ValueError(f"{jax.tree_util.keystr(path)} has shape {found.shape}, expected {expected.shape}")


def _cannot_save(folder: epath.Path, error: Exception) -> UserError:
    return UserError(
        f"a checkpoint cannot be written in {folder} ({summarize_error(error)}): make room or mend the folder, and run "
        "the same command again to go on from the last whole checkpoint"
    )
