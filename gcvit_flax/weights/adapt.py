"""Weights adapted to another configuration: other windows, channels, number of classes or reference."""

from collections.abc import Mapping

import numpy as np

from gcvit_flax.config import GCViTConfig
from gcvit_flax.errors import UserError
from gcvit_flax.model.layers import NORMAL_STD
from gcvit_flax.weights.resample import resample_tables

_STEM = "patch_embed/proj/kernel"
_REPORTED = (
    "image_size",
    "num_classes",
    "in_channels",
    "relative_position_bias",
    "query_pool_padding",
    "pad_to_windows",
)


def adapt(
    flat: Mapping[str, np.ndarray], config: GCViTConfig, new_config: GCViTConfig, *, seed: int
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The flat parameters of `config` made to fit `new_config`, and a line for each change.

    Relative position bias tables are resampled to new windows, and the stem's kernel is fitted to other channels.
    Another number of classes gives a new head, with a normal(0, 0.02) kernel drawn from `seed` and zero bias.

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
    if config.in_channels != new_config.in_channels:
        flat[_STEM] = _fit_channels(flat[_STEM], new_config.in_channels)
        how = "summed over them" if new_config.in_channels == 1 else "repeated and rescaled"
        notes.append(f"the stem's kernel for {config.in_channels} channels is {how}")
    if config.num_classes != new_config.num_classes:
        flat, note = _replace_head(flat, new_config, seed)
        notes.append(note)
    return flat, notes


def _fit_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """A kernel (h, w, in, out) for another number of channels, as timm fits it.

    For one channel it is summed, which gives what the same gray in all channels gave. More channels take turns with
    those that there are, rescaled so that channels that are alike still give the same sum.
    """
    if channels == 1:
        return kernel.sum(2, keepdims=True)
    before = kernel.shape[2]
    return kernel[:, :, np.arange(channels) % before] * np.float32(before / channels)


def _replace_head(flat: Mapping[str, np.ndarray], config: GCViTConfig, seed: int) -> tuple[dict[str, np.ndarray], str]:
    flat = {name: value for name, value in flat.items() if not name.startswith("head/")}
    if not config.num_classes:
        return flat, "the head is dropped"
    shape = (config.dims[-1], config.num_classes)
    flat["head/kernel"] = np.random.default_rng(seed).normal(0, NORMAL_STD, shape).astype(np.float32)
    flat["head/bias"] = np.zeros(shape[1], np.float32)
    return flat, f"the head is new, {config.num_classes} classes, random from seed {seed}"
