"""What a run writes about itself: metrics.jsonl, TensorBoard events and curves.png."""

import json
from pathlib import Path

import numpy as np

from gcvit_flax.files import replace_text

METRICS_NAME = "metrics.jsonl"


def read_metrics(workdir: Path) -> list[dict]:
    """The lines of a workdir's metrics.jsonl; a last line that a crash cut short is left out."""
    path = workdir / METRICS_NAME
    lines = path.read_text().splitlines() if path.exists() else []
    records = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


class MetricsLog:
    """Appends metrics to a workdir; what a stopped run wrote beyond `start_step` is dropped first."""

    def __init__(self, workdir: Path, start_step: int):
        from tensorboardX import SummaryWriter  # Slow to import.

        self._workdir = workdir
        self.records = [record for record in read_metrics(workdir) if record["step"] <= start_step]
        text = "".join(json.dumps(record) + "\n" for record in self.records)
        replace_text(workdir / METRICS_NAME, text)
        self._events = SummaryWriter(str(workdir), purge_step=start_step + 1)

    def write(self, step: int, epoch: float, **values: float) -> None:
        """Records `values` at `step` in metrics.jsonl and as TensorBoard scalars."""
        record = {"step": step, "epoch": round(epoch, 4), **values}
        self.records.append(record)
        with (self._workdir / METRICS_NAME).open("a") as stream:
            stream.write(json.dumps(record) + "\n")
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def best(self) -> tuple[float, float] | None:
        """The largest (val_top1, -val_loss) so far, None before the first evaluation."""
        return max((_score(record) for record in self.records if "val_top1" in record), default=None)

    def improves(self, values: dict[str, float]) -> bool:
        """Whether an evaluation beats every earlier one: top-1 accuracy first, then loss."""
        best = self.best()
        return best is None or _score(values) > best

    def close(self) -> None:
        """Flushes the events and draws curves.png."""
        self._events.close()
        if self.records:
            draw_curves(self.records, self._workdir / "curves.png")


def _score(values: dict[str, float]) -> tuple[float, float]:
    return values["val_top1"], -values["val_loss"]


def draw_curves(records: list[dict], path: Path) -> None:
    """Draws losses, accuracies and the learning rate over the epochs into a PNG."""
    from matplotlib.figure import Figure  # Slow to import.

    panels = {"loss": ("train_loss", "val_loss"), "top-1 accuracy": ("train_top1", "val_top1")}
    panels["learning rate"] = ("learning_rate",)
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for name in names:
            points = [(record["epoch"], record[name]) for record in records if name in record]
            x, y = np.reshape(points, (-1, 2)).T
            axes.plot(x, y, label=name, marker="o" if name.startswith("val") else None, markersize=3)
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)
