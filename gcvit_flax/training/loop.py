"""The training loop: batches in, steps on all devices, checkpoints and the best model out."""

import math
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any

import jax
import numpy as np
from etils import epath

from gcvit_flax.data.batches import Batch, training_batches
from gcvit_flax.data.sources import Dataset
from gcvit_flax.errors import UserError
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.training import processes, steps
from gcvit_flax.training.checkpoints import Checkpoints
from gcvit_flax.training.evaluation import run_evaluation
from gcvit_flax.training.optim import Params
from gcvit_flax.training.plan import Plan
from gcvit_flax.training.pmapped import replicate, shard
from gcvit_flax.training.preemption import InterruptibleBatches, StopRequested, StopSignals
from gcvit_flax.training.report.metrics import has_evaluation, read_metrics
from gcvit_flax.training.report.profiling import Profile
from gcvit_flax.training.report.run_log import RunLog
from gcvit_flax.training.report.summary import describe_outcome, describe_run
from gcvit_flax.training.setup import initial_params
from gcvit_flax.training.steps import TrainState
from gcvit_flax.training.train_config import TrainConfig
from gcvit_flax.weights.folder_config import is_model_folder
from gcvit_flax.weights.model_folder import save_model


class TrainingRun:
    """A training run: its model, data, plan, devices and workdir."""

    def __init__(
        self, config: TrainConfig, data: Dataset, model: GCViT, devices: list[jax.Device], workdir: epath.Path
    ):
        self.config, self.data, self.model, self.devices, self.workdir = config, data, model, devices, workdir
        self.plan = Plan(config, len(data.train))
        self.eval_step = steps.make_eval_step(model, devices)
        self.sync_check = steps.make_sync_check(devices)

    def is_done(self, checkpoints: Checkpoints) -> bool:
        """Whether nothing is left to train or to evaluate."""
        step = checkpoints.latest_step or 0
        evaluated = has_evaluation(read_metrics(self.workdir), step)
        return step >= self.plan.last_step and evaluated and is_model_folder(self.workdir / "model")

    def execute(self, checkpoints: Checkpoints, signals: StopSignals) -> None:
        """Trains from the start, or from the newest checkpoint, to the last step or until a signal."""
        config, plan, schedule = self.config, self.plan, self.plan.schedule
        state = replicate(self._first_state(checkpoints), self.devices)
        start, stopped = int(state.step), False
        if processes.is_first():
            print(describe_run(config, plan, self.data, self.model, self.devices, start), flush=True)
        train_step = steps.make_train_step(
            self.model, config, self.devices, mix_off_step=plan.mix_off_step, ema_start_step=plan.ema_start_step
        )
        key = jax.random.key(config.seed)
        with (
            closing(RunLog(self.workdir, self.model, plan, self.devices, start)) as log,
            closing(InterruptibleBatches(self._batches(start), signals)) as batches,
            Profile(config.profile, self.workdir / "profile") as profile,
        ):
            checkpoints.best_step = log.best_step(self._selected_by)
            try:
                # A run may have been stopped between this step's checkpoint and its evaluation.
                if processes.from_first(start > 0 and plan.evaluates(start) and not log.has_evaluation(start)):
                    self._evaluate(start, state, log, checkpoints, signals)
                for step in range(start + 1, plan.last_step + 1):
                    profile.before(step)
                    batch = self._next_batch(batches, state, log, checkpoints)
                    skipped = batch.pop("skipped", 0)
                    state, metrics = train_step(state, shard(batch, self.devices), key, np.float32(schedule(step - 1)))
                    log.step(metrics, skipped)
                    profile.after(step, metrics)
                    if plan.saves(step) or step % config.log_every == 0:
                        log.training(step)
                    if plan.saves(step):
                        self._save(state, log, checkpoints)  # Before the evaluation, which a signal ends at once.
                        if plan.evaluates(step):
                            self._evaluate(step, state, log, checkpoints, signals)
                        log.clock.start()
                    if signals.reached():
                        raise StopRequested
            except StopRequested:
                stopped = True
                log.training(int(state.step))
                self._save(state, log, checkpoints)
        checkpoints.wait()
        if processes.is_first():
            stop = f"stopped by {signals.name}: saved at step {int(state.step)}" if stopped else None
            print(describe_outcome(config.workdir, stop), flush=True)

    def _next_batch(
        self,
        batches: Iterator[Batch],
        state: TrainState,
        log: RunLog,
        checkpoints: Checkpoints,
    ) -> Batch:
        """The next batch. Where none can be had, a process that trains alone saves `state` before it fails."""
        try:
            with log.clock.waiting_for("input"):
                return next(batches)
        except StopRequested:
            raise
        except Exception:
            if processes.count() == 1:  # Others would be in the middle of the next step.
                log.training(int(state.step))
                self._save(state, log, checkpoints)
            raise

    @property
    def _selected_by(self) -> str:
        """The name of the evaluation by which the best model is selected."""
        return "ema_val" if self.config.ema_decay else "val"

    def _first_state(self, checkpoints: Checkpoints) -> TrainState:
        """The newest checkpoint or, without one, the state from --init-from or from the seed; on the host."""
        if checkpoints.latest_step is None:
            return steps.create_train_state(self.model, initial_params(self.config, self.model), self.config)
        return checkpoints.restore(steps.abstract_train_state(self.model, self.config))

    def _batches(self, start_step: int) -> Generator[Batch, None, None]:
        config = self.config
        return training_batches(
            self.data.train,
            self.model.preprocessing,
            batch_size=config.global_batch,
            seed=config.seed,
            start_step=start_step,
            crop_area=config.crop_area,
            squash=config.squash,
            interpolation=config.crop_interpolation,
            repeats=config.repeated_augmentation,
            skip_corrupt=config.skip_corrupt,
            workers=config.workers,
            process=(jax.process_index(), jax.process_count()),
        )

    def _save(self, state: TrainState, log: RunLog, checkpoints: Checkpoints) -> None:
        """Saves a checkpoint, after its metrics, unless the parameters differ between devices."""
        step = int(state.step)
        if not self.sync_check(state.evaluated):
            raise UserError(
                f"the parameters differ between devices after step {step}: resume from the last checkpoint, and "
                "replace the faulty device if it happens again"
            )
        log.flush()
        checkpoints.save(state)

    def _evaluate(
        self, step: int, state: TrainState, log: RunLog, checkpoints: Checkpoints, signals: StopSignals
    ) -> None:
        """Evaluates, and writes the model if it is the best so far; the line in metrics.jsonl comes last.

        Raises:
          StopRequested: a signal has come; nothing is written.
        """
        if signals.reached():  # Before the evaluation is compiled.
            raise StopRequested
        trees = state.evaluated
        with log.epoch_clock.evaluating():
            results = run_evaluation(
                self.eval_step,
                trees,
                self.data.validation,
                self.model.preprocessing,
                self.config.global_batch // self.config.accumulation_steps,  # What fits into memory.
                self.devices,
                skip_corrupt=self.config.skip_corrupt,
                workers=self.config.workers,
                signals=signals,
            )
        if not all(math.isfinite(r["loss"]) for r in results.values()):
            raise UserError(
                f"the validation loss after step {step} is not finite: start again, in a new --workdir or with "
                "--no-resume, with a lower --learning-rate; checkpoints from before are intact"
            )
        if log.improves(results, self._selected_by) and processes.is_first():
            self._save_model(step, trees[self._selected_by], results[self._selected_by])
        log.evaluation(step, results)
        checkpoints.best_step = log.best_step(self._selected_by)

    def _save_model(self, step: int, params: Params, results: dict[str, float]) -> None:
        provenance: dict[str, Any] = {"trained_by": "gcvit_flax train.py", "data": self.config.data, "step": step}
        provenance["val_fraction"] = self.config.val_fraction
        provenance |= {f"val_{name}": value for name, value in results.items()}
        named = self.model.config.num_classes == len(self.data.class_names)
        save_model(
            self.workdir / "model",
            self.model,
            {"params": params},
            class_names=self.data.class_names if named else None,
            provenance=provenance,
        )
