"""Weights adapted to another configuration: other windows, number of classes or reference."""

from collections.abc import Mapping

import numpy as np

from gcvit_flax.config import GCViTConfig
from gcvit_flax.errors import UserError
from gcvit_flax.model.layers import NORMAL_STD
from gcvit_flax.weights.resample import resample_tables

_REPORTED = ("image_size", "num_classes", "relative_position_bias", "query_pool_padding", "pad_to_windows")


def adapt(
    flat: Mapping[str, np.ndarray], config: GCViTConfig, new_config: GCViTConfig, *, seed: int
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The flat parameters of `config` made to fit `new_config`, and a line for each change.

    Relative position bias tables are resampled to new windows. Another number of classes gives a new head, with a
    normal(0, 0.02) kernel drawn from `seed` and zero bias.

    Raises:
      UserError: the query generators of the two configurations differ in their poolings, hence in their weights.
    """
    if config.query_stages != new_config.query_stages:
        raise UserError(
            f"image_size {new_config.image_size} over windows {new_config.window_size} needs {new_config.query_stages} "
            f"poolings in the query generators, but these weights have {config.query_stages}: choose a size whose "
            "windows keep them, or pad_to_windows"
        )
    notes = [
        f"{name} {getattr(config, name)} becomes {getattr(new_config, name)}"
        for name in _REPORTED
        if getattr(config, name) != getattr(new_config, name)
    ]
    if config.window_size != new_config.window_size:
        notes.append(
            f"relative position bias tables resampled (bicubic) from windows {config.window_size} "
            f"to {new_config.window_size}"
        )
    flat = resample_tables(flat, config, new_config)
    if config.num_classes != new_config.num_classes:
        flat, note = _replace_head(flat, new_config, seed)
        notes.append(note)
    return flat, notes


def _replace_head(flat: Mapping[str, np.ndarray], config: GCViTConfig, seed: int) -> tuple[dict[str, np.ndarray], str]:
    flat = {name: value for name, value in flat.items() if not name.startswith("head/")}
    if not config.num_classes:
        return flat, "the head is dropped"
    shape = (config.dims[-1], config.num_classes)
    flat["head/kernel"] = np.random.default_rng(seed).normal(0, NORMAL_STD, shape).astype(np.float32)
    flat["head/bias"] = np.zeros(shape[1], np.float32)
    return flat, f"the head is new, {config.num_classes} classes, random from seed {seed}"
