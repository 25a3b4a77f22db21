"""Orbax checkpoints of the whole training state: parameters, their average, optimizer and step."""

import dataclasses
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from gcvit_flax.errors import UserError, summarize_error
from gcvit_flax.model.tree import check_same_names_and_shapes
from gcvit_flax.training import processes
from gcvit_flax.training.damaged_checkpoints import add_after_commit, set_aside_damaged, write_before_commit
from gcvit_flax.training.steps import TrainState

_SHOWN = 3  # Names of each kind in the refusal of another network's checkpoint.
_SAVED = ("step", "params", "opt_state", "ema_params")


class Checkpoints:
    """The checkpoints of one run: the last `keep`, and that of `best_step`, which the run sets.

    They are written in the background; leaving the `with` block waits for the last one. All processes take part in
    every call. Each has checksums of its files, and damaged ones are set aside before the newest is looked for.

    Raises:
      UserError: (a ValueError) there are checkpoints, but none that is whole.
    """

    def __init__(self, folder: epath.Path, keep: int):
        self.best_step: int | None = None
        with processes.raising_together():
            if processes.is_first():
                set_aside_damaged(folder)
        kept = [preservation_policy.LatestN(keep), _Best(self)]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=True,
            # Called in the background, by the first process.
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._write_checksums),
        )
        self._folder = folder
        self._saving: int | None = None  # The step of the last save, until it is known to be done.
        self._manager = _Manager(folder, options=options, item_handlers=ocp.StandardCheckpointHandler())

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._finish_saving()
            self._manager.close()
        except Exception as closing_error:
            if error is None:  # Otherwise the block's own error is raised.
                raise _cannot_save(self._folder, closing_error) from closing_error

    @property
    def latest_step(self) -> int | None:
        """The step of the newest whole checkpoint, None without one."""
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Saves `state` under its step, unless that step is saved already.

        The state is the same on every device, so it goes to disk as host arrays that the first process writes; given
        device arrays, Orbax would compile a slicing program for each of them.

        Raises:
          UserError: (a ValueError) this or the last checkpoint cannot be written; earlier ones are intact.
        """
        step = int(state.step)
        if step == self.latest_step:
            return
        try:
            self._finish_saving()
            self._saving = step
            self._manager.save(step, args=ocp.args.StandardSave(jax.device_get(_to_tree(state))))
        except Exception as error:  # A full disk has many types here: OSError, or TensorStore's ValueError.
            raise _cannot_save(self._folder, error) from error

    def wait(self) -> None:
        """Blocks until all that was saved is on disk.

        Raises:
          UserError: (a ValueError) the last checkpoint cannot be written; earlier ones are intact.
        """
        try:
            self._finish_saving()
        except Exception as error:
            raise _cannot_save(self._folder, error) from error

    def _write_checksums(self) -> None:
        assert self._saving is not None
        write_before_commit(self._folder, self._saving)

    def _finish_saving(self) -> None:
        self._manager.wait_until_finished()
        if self._saving is not None and processes.is_first():
            add_after_commit(self._folder, self._saving)
        self._saving = None

    def restore(self, state: TrainState) -> TrainState:
        """The newest checkpoint as host arrays, for any number of devices; `state` gives names, shapes and dtypes.

        Raises:
          UserError: (a ValueError) a checkpoint whose names or shapes are not those of `state`, or that is damaged.
        """
        what = f"checkpoint {self.latest_step} in {self._folder}"
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _to_tree(state))
        try:
            self._manager.wait_until_finished()
            stored = self._manager.item_metadata(self.latest_step)
            if stored is None:  # Orbax's answer if its own metadata is missing.
                raise FileNotFoundError("it has no metadata")
            # Orbax itself restores whatever shapes it finds.
            check_same_names_and_shapes(
                _by_name(stored),
                _by_name(like),
                f"{what} does not match this network and this version of gcvit_flax",
                "resume with the version that wrote it, or choose another --workdir; --no-resume would delete that run",
                shown=_SHOWN,
            )
            tree = self._manager.restore(self.latest_step, args=ocp.args.StandardRestore(like))
        except UserError:
            raise
        except Exception as error:  # Orbax and TensorStore raise many types for files that are gone or damaged.
            raise UserError(
                f"{what} cannot be restored ({summarize_error(error)}): remove that step's folder to resume from an "
                "earlier one, or choose another --workdir; --no-resume would delete that run"
            ) from error
        return state.replace(**tree)


class _Manager(ocp.CheckpointManager):
    """Orbax's manager without its questions to JAX's preemption service, which would mix up those of `StopSignals`."""

    def reached_preemption(self, step: int) -> bool:
        return False


@dataclasses.dataclass
class _Best(preservation_policy.PreservationPolicy):
    """Keeps the best checkpoint; Orbax's own policy wants its score when it is saved, before it is known."""

    checkpoints: Checkpoints

    def should_preserve(
        self,
        checkpoints: Sequence[preservation_policy.PolicyCheckpointInfo],
        *,
        context: preservation_policy.PreservationContext,
    ) -> Sequence[bool]:
        return [checkpoint.step == self.checkpoints.best_step for checkpoint in checkpoints]


def _to_tree(state: TrainState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in _SAVED if getattr(state, name) is not None}


def _by_name(tree: Any) -> dict[str, Any]:
    """The leaves of a tree of any kind, {"params/head/kernel": leaf}."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _cannot_save(folder: epath.Path, error: Exception) -> UserError:
    return UserError(
        f"a checkpoint cannot be written in {folder} ({summarize_error(error)}): make room or mend the folder, and run "
        "the same command again to resume from the last whole checkpoint"
    )
