"""Pictures of attention: maps over their image, and planes of the relative position bias."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from gcvit_flax.config import Preprocessing
from gcvit_flax.data.crops import crop_box
from gcvit_flax.errors import UserError
from gcvit_flax.visualize.overlay import Box, overlay
from gcvit_flax.visualize.png import write_figure, write_png

if TYPE_CHECKING:  # Slow to import.
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure

_PANEL_INCHES = 3.0  # The width of a panel.
_TITLE_INCHES = 0.45
_MIN_SIDE = 400  # Images are reduced for panels until the shorter side has at least this many pixels.
_DPI = 120


def visible_box(image: Image.Image, preprocessing: Preprocessing) -> Box:
    """The part of an image that the network sees (`crop_box`), if it is large enough to draw on.

    Raises:
      UserError: (a ValueError) an image of which the network sees less than 2 px per side.
    """
    box = left, top, right, bottom = crop_box(image, preprocessing)
    if min(right - left, bottom - top) < 2:
        raise UserError(
            f"an image of {image.width}x{image.height} px is too small to draw on: give one of which the network sees "
            "at least 2 px per side"
        )
    return box


def draw_maps(path: Path, image: Image.Image, box: Box, maps: Mapping[str, np.ndarray]) -> None:
    """Draws titled maps (h, w) over the part of the image in `box`: one map at the image's size, several as panels.

    `path` becomes a PNG file.

    Raises:
      UserError: (a ValueError) `path` cannot be written.
    """
    if len(maps) == 1:
        (values,) = maps.values()
        write_png(path, overlay(image, values, box))
        return
    factor = max(1, min(image.size) // _MIN_SIDE)
    left, top, right, bottom = box
    image, box = image.reduce(factor), (left / factor, top / factor, right / factor, bottom / factor)
    figure, panels = _panels(1 + len(maps), image.height / image.width)
    panels[0].imshow(image)
    panels[0].set_title("the image\n", fontsize=8)
    for panel, (title, values) in zip(panels[1:], maps.items(), strict=False):
        panel.imshow(overlay(image, values, box))
        panel.set_title(f"{title}\n{values.min():.2f} to {values.max():.2f}", fontsize=8)
    for panel in panels:
        panel.axis("off")
    figure.suptitle("attention that each place receives; 1 is uniform attention", fontsize=10)
    bar = _color_bar(figure, "viridis", 0, 1)
    bar.set_ticks([0, 1], labels=["the panel's\nlowest", "the panel's\nhighest"], fontsize=8)
    write_figure(path, figure)


def draw_planes(path: Path, planes: Mapping[str, np.ndarray]) -> None:
    """Draws titled planes of the relative position bias (2 wh-1, 2 ww-1) into a PNG file, all on one scale.

    Raises:
      UserError: (a ValueError) `path` cannot be written.
    """
    from matplotlib.ticker import MaxNLocator  # Slow to import.

    largest = max(float(np.abs(plane).max()) for plane in planes.values())
    figure, panels = _panels(len(planes), 1.0)
    for panel, (title, plane) in zip(panels, planes.items(), strict=False):
        height, width = plane.shape
        extent = (-width / 2, width / 2, height / 2, -height / 2)  # Offset 0 is at the center of its cell.
        panel.imshow(plane, cmap="RdBu_r", vmin=-largest, vmax=largest, extent=extent)
        panel.set_title(title, fontsize=8)
        panel.set_xlabel("dx", fontsize=8)
        panel.set_ylabel("dy", fontsize=8)
        panel.tick_params(labelsize=7)
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_locator(MaxNLocator(5, integer=True))
    for panel in panels[len(planes) :]:
        panel.axis("off")
    figure.suptitle("relative position bias\ndx, dy: the query's column and row minus the key's", fontsize=10)
    _color_bar(figure, "RdBu_r", -largest, largest).ax.tick_params(labelsize=8)
    write_figure(path, figure)


def _panels(count: int, aspect: float) -> "tuple[Figure, list[Axes]]":
    """A figure and at least `count` panels, row by row, for images of height / width `aspect`."""
    from matplotlib.figure import Figure  # Slow to import.

    rows = math.isqrt(count)
    columns = math.ceil(count / rows)
    height = _PANEL_INCHES * min(max(aspect, 0.4), 1.6) + _TITLE_INCHES  # Taller images are drawn smaller.
    figure = Figure((_PANEL_INCHES * columns + 1, height * rows + _TITLE_INCHES), dpi=_DPI, layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _color_bar(figure: "Figure", colormap: str, lowest: float, highest: float) -> "Colorbar":
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(Normalize(lowest, highest), colormap)
    return figure.colorbar(scale, ax=figure.axes, fraction=0.03, pad=0.02, shrink=0.6, aspect=30)
