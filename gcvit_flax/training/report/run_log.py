"""The log of a run: metrics into files, progress to the terminal, and the check that the loss is finite."""

import time
from typing import Any

import jax
import numpy as np
from etils import epath

from gcvit_flax.errors import UserError
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.training import processes
from gcvit_flax.training.plan import Plan
from gcvit_flax.training.report.metrics import MetricsLog, has_evaluation, score
from gcvit_flax.training.report.progress import Progress
from gcvit_flax.training.report.timing import EpochClock, StepClock
from gcvit_flax.training.report.weights_and_biases import WandbRun

_MEANS = ("train_loss", "train_top1", "grad_norm", "param_norm")


class RunLog:
    """Gathers the metrics of steps and passes them on; only the first process writes files and prints."""

    def __init__(self, workdir: epath.Path, model: GCViT, plan: Plan, devices: list[jax.Device], start_step: int):
        self._plan, self._schedule = plan, plan.schedule
        self._progress = Progress(start_step, plan.last_step, speaks=processes.is_first())
        self._log = self._metrics_log(workdir, start_step)
        self._recent: list[dict[str, Any]] = []  # Metrics of the steps since the last line.
        self._began = time.perf_counter()
        self._compiled = False
        self._earlier_seconds = max((record.get("elapsed_seconds", 0.0) for record in self._log.records), default=0.0)
        self.clock = StepClock(model, plan.config.global_batch, devices)
        self.epoch_clock = EpochClock(plan.config.global_batch)

    def _metrics_log(self, workdir: epath.Path, start_step: int) -> MetricsLog:
        config, first = self._plan.config, processes.is_first()
        wandb = WandbRun(config.wandb, workdir, vars(config)) if config.wandb and first else None
        return MetricsLog(workdir, start_step, writes=first, wandb=wandb)

    def step(self, metrics: dict[str, jax.Array], skipped: int) -> None:
        """Takes a step's metrics and waits for the step before it: devices are neither idle nor far behind."""
        self._recent.append({**metrics, "skipped_images": skipped})
        if not self._compiled:
            jax.block_until_ready(metrics)
            self._compiled = True
            self._progress.say(f"first step done after {time.perf_counter() - self._began:.0f} s")
            self.clock.start()
            self.epoch_clock.start()
            self._progress.step()
            return
        with self.clock.waiting_for("device"):
            self._recent[-2:-1] = jax.device_get(self._recent[-2:-1])
        self.clock.step()
        self.epoch_clock.step()
        self._progress.step()

    def training(self, step: int) -> None:
        """Records the means over the steps since the last call, if there are any.

        Raises:
          UserError: (a ValueError) a loss, gradients or parameters that are not finite.
        """
        if not self._recent:
            return
        with self.clock.waiting_for("device"):
            recent, self._recent = jax.device_get(self._recent), []
        values = {name: float(np.mean([metrics[name] for metrics in recent])) for name in _MEANS}
        if not np.isfinite(list(values.values())).all():
            raise UserError(
                f"the training loss became {values['train_loss']:g}, with parameters of norm {values['param_norm']:g}, "
                f"in steps {step - len(recent) + 1} to {step}: start again, in a new --workdir or with --no-resume, "
                "with a lower --learning-rate or more --warmup-epochs; checkpoints from before are intact"
            )
        values |= {"learning_rate": float(self._schedule(step - 1)), **self.clock.report(), **self._elapsed()}
        if skipped := sum(metrics["skipped_images"] for metrics in recent):
            values["skipped_images"] = int(skipped)
        self._log.write(step, self._plan.epochs(step), **values)
        self._progress.show(step, values)

    def evaluation(self, step: int, results: dict[str, dict[str, float]]) -> None:
        """Records evaluations, named "val" and, of the averaged parameters, "ema_val"."""
        epoch = self._plan.epochs(step)
        values = {f"{prefix}_{name}": value for prefix, r in results.items() for name, value in r.items()}
        values |= {**self.epoch_clock.report(), **self._elapsed()}
        self._log.write(step, epoch, **values)
        self._log.flush()
        for prefix, r in results.items():
            what = "validation" if prefix == "val" else "validation of the averaged parameters"
            self._progress.say(
                f"epoch {epoch:.1f} (step {step}), {what}: loss {r['loss']:.4f}, top-1 {r['top1']:.2%}, "
                f"top-5 {r['top5']:.2%} of {r['count']}"
            )

    def _elapsed(self) -> dict[str, float]:
        """Seconds since the run began, without the time between a stop and the next start."""
        return {"elapsed_seconds": round(self._earlier_seconds + time.perf_counter() - self._began, 1)}

    def flush(self) -> None:
        """Makes sure that what is recorded is stored."""
        self._log.flush()

    def has_evaluation(self, step: int) -> bool:
        """Whether the parameters after `step` were evaluated."""
        return has_evaluation(self._log.records, step)

    def improves(self, results: dict[str, dict[str, float]], prefix: str) -> bool:
        """Whether the evaluation named `prefix` beats every earlier one."""
        return score(results[prefix]) > self._log.best(prefix)[1]

    def best_step(self, prefix: str) -> int | None:
        """The step with the best evaluation named `prefix`, None before the first."""
        return self._log.best(prefix)[0]

    def close(self) -> None:
        """Ends the bar, flushes the metrics and draws the curves."""
        self._progress.close()
        self._log.close()
