"""Draws runs beside each other: `python -m gcvit_flax.training.compare_runs OUT.svg NAME=WORKDIRS ...`.

WORKDIRS are the run folders of one setting with several seeds, as a pattern: 'lion=runs/lion-*'. Their mean is a line,
with a band from the lowest to the highest; the last evaluation that all of them have is printed.
"""

import dataclasses
import glob
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gcvit_flax.atomic import check_replaceable, replace_bytes
from gcvit_flax.cli import run_cli
from gcvit_flax.errors import UserError
from gcvit_flax.training.report.metrics import read_metrics

_PANELS = {
    "validation top-1 accuracy (%)": ("top1", 100),
    "validation cross-entropy": ("loss", 1),
}  # Titles, names, factors.
_DASHES = ("solid", "dashed", "dashdot", "dotted")


@dataclasses.dataclass(frozen=True)
class Curves:
    """Evaluations of runs that differ in their seed, after the epochs (n,) that all of them have: arrays (runs, n)."""

    epochs: np.ndarray
    top1: np.ndarray
    loss: np.ndarray

    def __str__(self) -> str:
        last = 100 * self.top1[:, -1]
        spread = f" ({last.min():.1f} to {last.max():.1f})" if len(last) > 1 else ""
        count = f"{len(last)} run{'s' if len(last) > 1 else ''}"
        return f"{count}, top-1 {last.mean():.1f} %{spread} after {self.epochs[-1]:.3g} epochs"


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws and prints; without arguments, prints the usage."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    path, *named = arguments or [""]
    if not named or path.startswith("-"):
        print(__doc__, file=sys.stderr)
        return 0 if path in ("--help", "-h") else 2
    check_replaceable(Path(path), "a picture")
    curves = {}
    for argument in named:
        name, _, pattern = argument.partition("=")
        if not pattern:
            raise UserError(f"{argument} names no runs, expected NAME=WORKDIRS as in 'lion=runs/lion-*'")
        curves[name] = read_curves(sorted(glob.glob(pattern)) or [pattern])
    replace_bytes(path, draw(curves, Path(path).suffix.removeprefix(".")))
    for name, values in curves.items():
        print(f"{name}: {values}")
    return 0


def read_curves(workdirs: Sequence[str]) -> Curves:
    """The evaluations in the metrics.jsonl of `workdirs`, of averaged parameters where there are any.

    Raises:
      UserError: (a ValueError) a folder without any, or that has none after the same epoch as the others.
    """
    runs = []
    for workdir in workdirs:
        records = [record for record in read_metrics(workdir) if "val_top1" in record]
        if not records:
            raise UserError(f"{workdir} has no evaluation in a metrics.jsonl: give NAME=WORKDIRS of training runs")
        prefix = "ema_val" if "ema_val_top1" in records[0] else "val"
        runs.append({r["epoch"]: (r[f"{prefix}_top1"], r[f"{prefix}_loss"]) for r in records})
    epochs = sorted(set.intersection(*(set(run) for run in runs)))
    if not epochs:
        raise UserError(f"{', '.join(workdirs)} were not evaluated after the same epochs: name them apart")
    top1, loss = np.moveaxis(np.array([[run[epoch] for epoch in epochs] for run in runs]), -1, 0)
    return Curves(np.array(epochs), top1, loss)


def draw(curves: Mapping[str, Curves], kind: str) -> bytes:
    """A picture of all `curves` by their names, as a file of a `kind` that Matplotlib writes: svg, png or pdf.

    Raises:
      UserError: (a ValueError) another kind.
    """
    from matplotlib.figure import Figure  # Slow to import.

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, (title, (name, factor)) in zip(figure.subplots(1, 2), _PANELS.items(), strict=True):
        for index, (label, setting) in enumerate(curves.items()):
            values = factor * getattr(setting, name)
            dashes = _DASHES[index % len(_DASHES)]
            (line,) = axes.plot(setting.epochs, values.mean(0), label=label, linestyle=dashes, marker="o", markersize=3)
            axes.fill_between(setting.epochs, values.min(0), values.max(0), color=line.get_color(), alpha=0.2, lw=0)
        axes.set(xlabel="epoch", ylabel=title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    picture = io.BytesIO()
    try:
        figure.savefig(picture, format=kind, dpi=120)
    except ValueError as error:  # Matplotlib's message lists the kinds that it knows.
        raise UserError(f"a picture's name must end in .svg, .png or .pdf, got .{kind} ({error})") from error
    return picture.getvalue()


if __name__ == "__main__":
    run_cli(main)
