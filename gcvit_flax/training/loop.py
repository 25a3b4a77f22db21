"""The training loop: batches in, steps on all devices, metrics, checkpoints and the best model out."""

import dataclasses
import math
import time
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
from flax.training.train_state import TrainState

import gcvit_flax
from gcvit_flax.devices import choose_devices
from gcvit_flax.errors import UserError
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.training.checkpoints import Checkpoints
from gcvit_flax.training.config import FREE_ON_RESUME, TrainConfig
from gcvit_flax.training.data import Data, open_data
from gcvit_flax.training.evaluation import run_evaluation
from gcvit_flax.training.metrics import MetricsLog
from gcvit_flax.training.optim import cosine_schedule
from gcvit_flax.training.pipeline import training_batches
from gcvit_flax.training.plan import Plan
from gcvit_flax.training.preemption import SigtermWatch
from gcvit_flax.training.progress import Progress
from gcvit_flax.training.setup import start_model
from gcvit_flax.training.steps import make_eval_step, make_train_step, shard, start_state
from gcvit_flax.training.workdir import locked, prepare
from gcvit_flax.weights.store import save_model


def train(config: TrainConfig) -> None:
    """Runs, or takes up, the training run in `config.workdir` to its end or to SIGTERM, and says where all lies.

    Raises:
      UserError: (a ValueError) options, data or a workdir that do not fit, or a loss that is not finite.
    """
    _check_options(config)
    devices = choose_devices(config.batch_size, config.devices)
    data = open_data(config.data, config.val_fraction)
    model, params = start_model(config, data.class_names)
    run = Run(config, data, model, Plan.of(config, len(data.train)), devices)
    settings = {
        **dataclasses.asdict(config),
        "class_names": list(data.class_names),
        "training_examples": len(data.train),
        "model": dataclasses.asdict(model.config),
    }
    with locked(run.workdir):
        prepare(run.workdir, settings, FREE_ON_RESUME, config.resume)
        with Checkpoints(run.workdir / "checkpoints") as checkpoints:
            if (checkpoints.latest_step or 0) < run.plan.last_step:
                run.execute(params, checkpoints)
            else:
                print(
                    f"{run.workdir}: this run is done, at step {checkpoints.latest_step}, and its model is in "
                    f"{run.workdir / 'model'}; use --no-resume to start afresh, or another --workdir"
                )


def _check_options(config: TrainConfig) -> None:
    for name in ("epochs", "max_steps", "batch_size", "learning_rate", "clip_norm", "log_every"):
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise UserError(f"--{name.replace('_', '-')} must be positive, got {value}")
    low, high = config.crop_area
    if not 0 < low <= high <= 1:
        raise UserError(f"--crop-area must be two shares, above 0, at most 1 and in order, got {low} {high}")


class Run:
    """One run: what it trains, on what, for how long, and where."""

    def __init__(self, config: TrainConfig, data: Data, model: GCViT, plan: Plan, devices: list):
        self.config, self.data, self.model, self.plan, self.devices = config, data, model, plan, devices
        self.workdir = Path(config.workdir)
        warmup_steps = round(config.warmup_epochs * plan.examples / plan.batch_size)
        self.schedule = cosine_schedule(config.learning_rate, warmup_steps, plan.total_steps)
        self.eval_step = make_eval_step(model, devices)

    def execute(self, params: dict, checkpoints: Checkpoints) -> None:
        """Trains from `params`, or from the newest checkpoint, to the last step or until SIGTERM."""
        config, plan = self.config, self.plan
        state = start_state(self.model, params, config, self.devices)
        if checkpoints.latest_step is not None:
            state = checkpoints.restore(state)
        start = int(state.step)
        self._describe(params, start)
        train_step = make_train_step(self.model, config, self.devices)
        key = jax.random.key(config.seed)
        log = MetricsLog(self.workdir, start)
        progress = Progress(start, plan.last_step, config.batch_size)
        batches = self._batches(start)
        recent = []  # Metrics of the steps since the last line.
        with closing(progress), closing(log), SigtermWatch() as sigterm:
            for step in range(start + 1, plan.last_step + 1):
                batch = shard(next(batches), self.devices)
                began = time.perf_counter()
                state, metrics = train_step(state, batch, key, np.float32(self.schedule(step - 1)))
                recent.append(metrics)
                if step == start + 1:
                    jax.block_until_ready(metrics)
                    progress.say(f"first step done after {time.perf_counter() - began:.0f} s")
                    progress.start_clock()
                elif len(recent) > 1:  # Fetched one step late: the devices are never idle, nor far behind.
                    recent[-2] = jax.device_get(recent[-2])
                progress.step()
                saving = plan.ends_epoch(step) or sigterm.received
                if saving or step % config.log_every == 0:
                    self._log_training(step, recent, log, progress)
                    recent = []
                if plan.ends_epoch(step):
                    self._evaluate(step, state, log, progress)
                if saving:
                    checkpoints.save(state)
                    progress.start_clock()
                if sigterm.received:
                    break
        self._say_where(step)

    def _batches(self, start_step: int):
        config = self.config
        return training_batches(
            self.data.train,
            self.model.preprocessing,
            batch_size=config.batch_size,
            seed=config.seed,
            start_step=start_step,
            crop_area=config.crop_area,
            workers=config.workers,
            process=(jax.process_index(), jax.process_count()),
        )

    def _describe(self, params: dict, start: int) -> None:
        config, plan = self.config, self.plan
        count = sum(x.size for x in jax.tree.leaves(params))
        size = "x".join(map(str, self.model.preprocessing.image_size))
        devices = f"{len(self.devices)} {self.devices[0].platform} device{'s'[: len(self.devices) > 1]}"
        print(
            f"model: {count:,} parameters, {size} px, {len(self.data.class_names)} classes (gcvit_flax "
            f"{gcvit_flax.__version__})\n"
            f"data: {len(self.data.train):,} training and {len(self.data.validation):,} validation images "
            f"({config.data})\n"
            f"run: steps {start + 1:,} to {plan.last_step:,} of {plan.total_steps:,}, {config.batch_size} images each, "
            f"on {devices}, in {self.workdir}\n"
            "compiling the training step (once; later runs find it in the cache) ...",
            flush=True,
        )

    def _log_training(self, step: int, recent: list[dict], log: MetricsLog, progress: Progress) -> None:
        recent = jax.device_get(recent)
        values = {name: float(np.mean([metrics[name] for metrics in recent])) for name in recent[0]}
        if not math.isfinite(values["train_loss"]):
            raise UserError(
                f"the training loss became {values['train_loss']} in steps {step - len(recent) + 1} to {step}: lower "
                "--learning-rate or lengthen --warmup-epochs; earlier checkpoints are intact"
            )
        values["learning_rate"] = float(self.schedule(step - 1))
        values["images_per_second"] = round(progress.images_per_second(), 2)
        log.write(step, self.plan.epochs(step), **values)
        progress.show(step, values)

    def _evaluate(self, step: int, state: TrainState, log: MetricsLog, progress: Progress) -> None:
        """Evaluates, and keeps the model where it is the best so far; the line in metrics.jsonl comes last."""
        config, model = self.config, self.model
        results = run_evaluation(
            self.eval_step, state.params, self.data.validation, model.preprocessing, config.batch_size, self.devices
        )
        count = results.pop("count")
        values = {f"val_{name}": value for name, value in results.items()}
        epoch = self.plan.epochs(step)
        if log.improves(values):
            provenance = {"trained_by": "gcvit_flax train.py", "data": config.data, "step": step, **values}
            names = self.data.class_names if model.config.num_classes == len(self.data.class_names) else None
            save_model(
                self.workdir / "model", model, {"params": state.params}, class_names=names, provenance=provenance
            )
        log.write(step, epoch, **values)
        progress.say(
            f"epoch {epoch:.1f}: validation loss {values['val_loss']:.4f}, top-1 {values['val_top1']:.2%}, "
            f"top-5 {values['val_top5']:.2%} of {count}"
        )

    def _say_where(self, step: int) -> None:
        if step < self.plan.last_step:
            print(f"stopped by SIGTERM: saved at step {step} in {self.workdir}; the same command goes on from there")
            return
        print(
            f"done: the best model is in {self.workdir / 'model'}, metrics in {self.workdir / 'metrics.jsonl'}, "
            f"curves in {self.workdir / 'curves.png'}"
        )
