"""Relative position bias tables for windows of another size."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from gcvit_flax.config import GCViTConfig, Size

TABLE = "attn/relative_position_bias_table"


def resample_table(table: np.ndarray, window: Size, new_window: Size) -> np.ndarray:
    """A bias table ((2wh-1)(2ww-1), h) of `window` for `new_window`, both (height, width) in tokens.

    Each head's plane of offsets is resized on its own: bicubic (a = -0.5), half-pixel centers, no antialiasing.
    The table itself is returned for windows of the same size.
    """
    if window == new_window:
        return table
    plane, new_plane = ([2 * side - 1 for side in size] for size in (window, new_window))
    heads = table.shape[-1]
    planes = jax.image.resize(table.reshape(*plane, heads), (*new_plane, heads), "cubic", antialias=False)
    return np.asarray(planes).reshape(-1, heads)


def resample_tables(flat: Mapping[str, Any], config: GCViTConfig, new_config: GCViTConfig) -> dict[str, Any]:
    """`flat` parameters ({"a/b": array}) of `config` with each bias table resampled to `new_config`'s windows."""
    return {
        name: resample_table(value, config.window_size[level_of(name)], new_config.window_size[level_of(name)])
        if name.endswith(TABLE)
        else value
        for name, value in flat.items()
    }


def level_of(name: str) -> int:
    """The level that a parameter called "levels_2/..." belongs to."""
    return int(name.split("/", 1)[0].removeprefix("levels_"))
