"""The picture of a confusion matrix."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gcvit_flax.visualize.png import write_figure

_INCHES_PER_CLASS = 0.22  # Room for one line of small type.
_LARGEST_SIDE = 40.0  # Inches; with more classes than fit, only some are named.
_MAX_CLASSES_WITH_COUNTS = 30  # With more classes, cells do not show their counts.


def draw_confusion(counts: np.ndarray, class_names: Sequence[str], title: str, path: Path) -> None:
    """Draws int `counts` (true class, predicted class) into the PNG file `path`, each row colored by its shares.

    Raises:
      UserError: (a ValueError) `path` cannot be written.
    """
    from matplotlib.figure import Figure  # Slow to import.

    classes = len(counts)
    side = min(max(_INCHES_PER_CLASS * classes, 4.0), _LARGEST_SIDE)
    figure = Figure(figsize=(side, side))
    axes = figure.add_axes((0, 0, 1, 1))  # Names and color bar lie outside; savefig enlarges the picture.
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, cax=figure.add_axes((1.03, 0.2, 0.02, 0.6)), label="share of the true class")

    named = np.arange(0, classes, max(1, round(classes * _INCHES_PER_CLASS / side)))
    labels = [class_names[int(index)] for index in named]
    font = 10 if classes <= _MAX_CLASSES_WITH_COUNTS else 8
    axes.set_xticks(named, labels, rotation=90, fontsize=font)
    axes.set_yticks(named, labels, fontsize=font)
    axes.set(title=title, xlabel="predicted class", ylabel="true class")
    if classes <= _MAX_CLASSES_WITH_COUNTS:
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=color, fontsize=font)
    write_figure(path, figure, dpi=100, bbox_inches="tight")
