"""What a run writes about itself: metrics.jsonl, TensorBoard events and curves.png."""

import io
import json
import logging
import math
import time
from typing import Any

import numpy as np
from etils import epath

from gcvit_flax.atomic import replace_bytes, replace_text
from gcvit_flax.errors import UserError
from gcvit_flax.storage import explained, is_remote
from gcvit_flax.training.report.events import EventsStore
from gcvit_flax.training.report.weights_and_biases import WandbRun

logger = logging.getLogger("gcvit_flax")

METRICS_NAME = "metrics.jsonl"
_UPLOAD_SECONDS = 30.0  # Between two uploads to an object store of metrics that no checkpoint waits for.


def read_metrics(workdir: epath.PathLike) -> list[dict]:
    """The lines of a workdir's metrics.jsonl; a last line that a crash cut short is left out."""
    path = epath.Path(workdir) / METRICS_NAME
    lines = path.read_text().splitlines() if path.exists() else []
    records = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def has_evaluation(records: list[dict], step: int) -> bool:
    """Whether `records`, lines of metrics.jsonl, have an evaluation after `step`."""
    return any(record["step"] == step and "val_loss" in record for record in records)


class MetricsLog:
    """Appends metrics to a workdir, after dropping those that a stopped run wrote beyond `start_step`.

    Without `writes`, as in all processes but the first, it only remembers them. They go to `wandb` too.
    """

    def __init__(self, workdir: epath.PathLike, start_step: int, writes: bool = True, wandb: WandbRun | None = None):
        self._workdir = epath.Path(workdir)
        self._remote = is_remote(workdir)
        self._events: Any = None
        self._wandb = wandb
        self._unsaved, self._saved_at = False, 0.0
        self.records = [record for record in read_metrics(workdir) if record["step"] <= start_step]
        if writes:
            from tensorboardX import SummaryWriter  # Slow to import.
            from tensorboardX.record_writer import register_writer_factory

            register_writer_factory("gs", EventsStore())
            self._replace()
            # An unbounded queue: on a full disk its writer dies, and a bounded queue would block forever.
            self._events = SummaryWriter(str(workdir), purge_step=start_step + 1, max_queue=0)

    def write(self, step: int, epoch: float, **values: float) -> None:
        """Records `values` at `step` in metrics.jsonl and as scalars of TensorBoard and Weights & Biases."""
        record = {"step": step, "epoch": round(epoch, 4), **values}
        self.records.append(record)
        if self._events is None:
            return
        self._unsaved = self._remote
        if self._remote:
            if time.monotonic() - self._saved_at > _UPLOAD_SECONDS:
                self._try_to_flush()
        else:
            with open(self._workdir / METRICS_NAME, "a") as stream:
                stream.write(json.dumps(record) + "\n")
        for name, value in values.items():
            self._events.add_scalar(name, value, step)
        if self._wandb:
            self._wandb.write(step, record)

    def flush(self) -> None:
        """Uploads what an object store does not have yet; nothing can be appended to an object."""
        if self._unsaved:
            self._replace()

    def _try_to_flush(self) -> None:
        try:
            with explained(self._workdir):
                self.flush()
        except (UserError, OSError) as error:  # No reason to end a run between two checkpoints.
            logger.warning("metrics cannot be written now: %s", error)
            self._saved_at = time.monotonic()

    def best(self, prefix: str) -> tuple[int | None, float]:
        """The step with the highest score so far of the evaluations named `prefix`, and that; None before the first."""
        best: tuple[int | None, float] = (None, -math.inf)
        for record in self.records:
            if f"{prefix}_top1" in record:
                value = score({name: record[f"{prefix}_{name}"] for name in ("top1", "loss")})
                best = max(best, (record["step"], value), key=lambda step_and_score: step_and_score[1])
        return best

    def close(self) -> None:
        """Flushes metrics and events and draws curves.png."""
        if self._events is None:
            return
        self._try_to_flush()
        if self._wandb:
            self._wandb.close()
        try:
            self._events.close()
            with explained(self._workdir):
                if self.records:
                    replace_bytes(self._workdir / "curves.png", draw_curves(self.records))
        except (UserError, OSError) as error:  # A warning: an error here would hide the one that ends the run.
            logger.warning("events and curves.png cannot be written in %s (%s)", self._workdir, error)

    def _replace(self) -> None:
        replace_text(self._workdir / METRICS_NAME, "".join(json.dumps(record) + "\n" for record in self.records))
        self._unsaved, self._saved_at = False, time.monotonic()


def score(results: dict[str, float]) -> float:
    """One number that ranks evaluations: top-1 accuracy first, and where that is equal, the smaller loss."""
    # One image changes the accuracy by more than this unless there are tens of millions.
    return results["top1"] - 1e-9 * min(results["loss"], 100.0)


def draw_curves(records: list[dict]) -> bytes:
    """A PNG of losses, accuracies and the learning rate over the epochs."""
    from matplotlib.figure import Figure  # Slow to import.

    panels = {
        "loss": ("train_loss", "val_loss", "ema_val_loss"),
        "top-1 accuracy": ("train_top1", "val_top1", "ema_val_top1"),
        "learning rate": ("learning_rate",),
    }
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for name in names:
            points = [(record["epoch"], record[name]) for record in records if name in record]
            if points:
                x, y = np.transpose(points)
                axes.plot(
                    x, y, label=name, marker=None if name.startswith(("train", "learning")) else "o", markersize=3
                )
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    image = io.BytesIO()
    figure.savefig(image, dpi=120)
    return image.getvalue()
