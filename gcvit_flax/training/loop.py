"""The training loop: batches in, steps on all devices, checkpoints and the best model out."""

import math
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import jax
import numpy as np
from etils import epath

import gcvit_flax
from gcvit_flax.data.batches import Batch, training_batches
from gcvit_flax.data.sources import Dataset
from gcvit_flax.errors import UserError
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.model.init import abstract_params
from gcvit_flax.training import processes, steps
from gcvit_flax.training.checkpoints import Checkpoints
from gcvit_flax.training.evaluation import run_evaluation
from gcvit_flax.training.optim import Params
from gcvit_flax.training.plan import Plan
from gcvit_flax.training.pmapped import replicate, shard
from gcvit_flax.training.preemption import SigtermWatch
from gcvit_flax.training.report.metrics import score
from gcvit_flax.training.report.profiling import Profile
from gcvit_flax.training.report.run_log import RunLog
from gcvit_flax.training.setup import initial_params
from gcvit_flax.training.steps import TrainState
from gcvit_flax.training.train_config import TrainConfig
from gcvit_flax.weights.folder_config import is_model_folder
from gcvit_flax.weights.model_folder import save_model

Results = dict[str, dict[str, float]]


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
        return (checkpoints.latest_step or 0) >= self.plan.last_step and is_model_folder(self.workdir / "model")

    def execute(self, checkpoints: Checkpoints, sigterm: SigtermWatch) -> None:
        """Trains from the start, or from the newest checkpoint, to the last step or until SIGTERM."""
        config, plan, schedule = self.config, self.plan, self.plan.schedule
        state = replicate(self._first_state(checkpoints), self.devices)
        step, stopping = int(state.step), False
        start = step
        self._print_summary(start)
        train_step = steps.make_train_step(self.model, config, self.devices)
        key = jax.random.key(config.seed)
        batches = self._batches(start)
        with (
            closing(RunLog(self.workdir, self.model, plan, self.devices, start)) as log,
            Profile(config.profile, self.workdir / "profile") as profile,
        ):
            if start and plan.evaluates(start) and not log.has_evaluation(start):
                self._evaluate(start, state, log)  # Stopped between this step's checkpoint and its evaluation.
            for step in range(start + 1, plan.last_step + 1):
                profile.before(step)
                with log.clock.waiting_for("input"):
                    batch = next(batches)
                skipped = batch.pop("skipped", 0)
                batch = shard(batch, self.devices)
                state, metrics = train_step(state, batch, key, np.float32(schedule(step - 1)))
                log.step(metrics, skipped)
                profile.after(step, metrics)
                stopping = sigterm.stops_after(step)
                saving = stopping or plan.saves(step)
                if saving or step % config.log_every == 0:
                    log.training(step)
                # After SIGTERM time is short: the resumed run evaluates.
                results = self._evaluate(step, state, log) if plan.evaluates(step) and not stopping else None
                if saving:
                    checkpoints.save(state, score(results[self._selected_by]) if results else None)
                    log.clock.start()
                if stopping:
                    break
        checkpoints.wait()
        self._print_outcome(step, stopping)

    @property
    def _selected_by(self) -> str:
        """The name of the evaluation by which the best model is selected."""
        return "ema_val" if self.config.ema_decay else "val"

    def _first_state(self, checkpoints: Checkpoints) -> TrainState:
        """The newest checkpoint or, without one, the state from --init-from or from the seed; on the host."""
        if checkpoints.latest_step is None:
            return steps.create_train_state(self.model, initial_params(self.config, self.model), self.config)
        like = jax.eval_shape(
            lambda params: steps.create_train_state(self.model, params, self.config), abstract_params(self.model)
        )
        return checkpoints.restore(like)

    def _batches(self, start_step: int) -> Iterator[Batch]:
        config = self.config
        return training_batches(
            self.data.train,
            self.model.preprocessing,
            batch_size=config.global_batch,
            seed=config.seed,
            start_step=start_step,
            crop_area=config.crop_area,
            squash=config.squash,
            skip_corrupt=config.skip_corrupt,
            workers=config.workers,
            process=(jax.process_index(), jax.process_count()),
        )

    def _evaluate(self, step: int, state: TrainState, log: RunLog) -> Results:
        """Evaluates, and writes the model if it is the best so far; the line in metrics.jsonl comes last."""
        trees: dict[str, Params] = {"val": state.params}
        if state.ema_params is not None:
            trees["ema_val"] = state.ema_params
        if not self.sync_check(trees):
            raise UserError(
                f"the parameters differ between devices after step {step}: resume from the last checkpoint, and "
                "replace the faulty device if it happens again"
            )
        results = {
            prefix: run_evaluation(
                self.eval_step,
                params,
                self.data.validation,
                self.model.preprocessing,
                self.config.global_batch // self.config.accumulation_steps,  # What fits into memory.
                self.devices,
                self.config.skip_corrupt,
            )
            for prefix, params in trees.items()
        }
        if not all(math.isfinite(r["loss"]) for r in results.values()):
            raise UserError(
                f"the validation loss after step {step} is not finite: start again, in a new --workdir or with "
                "--no-resume, with a lower --learning-rate; checkpoints from before are intact"
            )
        if log.improves(results, self._selected_by) and processes.is_first():
            self._save_model(step, trees[self._selected_by], results[self._selected_by])
        log.evaluation(step, results)
        return results

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

    def _print_summary(self, start: int) -> None:
        if not processes.is_first():
            return
        sizes = jax.tree.map(lambda x: x.size, abstract_params(self.model))
        parameters = f"{sum(jax.tree.leaves(sizes)):,} parameters"
        if self.config.head_only:
            parameters += f", {sum(jax.tree.leaves(sizes['head'])):,} of them trained"
        size = "x".join(map(str, self.model.preprocessing.image_size))
        devices = len(self.devices) * processes.count()
        places = f"{devices} {self.devices[0].platform} device{'s'[: devices > 1]}"
        if processes.count() > 1:
            places += f" of {processes.count()} processes"
        print(
            f"model: {parameters}, {size} px, {len(self.data.class_names)} classes (gcvit_flax "
            f"{gcvit_flax.__version__})\n"
            f"data: {len(self.data.train):,} training and {len(self.data.validation):,} validation images "
            f"({self.config.data})\n"
            f"run: steps {start + 1:,} to {self.plan.last_step:,} of {self.plan.total_steps:,}, "
            f"{self.config.batch_size} images each, on {places}, in {self.config.workdir}\n"
            "compiling the training step (once; later runs find it in the cache) ...",
            flush=True,
        )

    def _print_outcome(self, step: int, stopped: bool) -> None:
        where = self.config.workdir
        if not processes.is_first():
            return
        if stopped:
            print(f"stopped by SIGTERM: saved at step {step} in {where}; the same command resumes it")
        else:
            print(
                f"done: the best model is in {where}/model, metrics and curves in {where}/metrics.jsonl and curves.png"
            )
