"""The ten published variants, and configurations from a variant's name and keyword arguments."""

import dataclasses
from typing import Any

import numpy as np

from gcvit_flax.checks import as_pair, check_choice
from gcvit_flax.config import GCViTConfig, Preprocessing, Size
from gcvit_flax.errors import UserError
from gcvit_flax.references import REFERENCES


def _large(side: int, drop_path_rate: float) -> GCViTConfig:
    return GCViTConfig(
        image_size=(side, side),
        embed_dim=192,
        depths=(3, 4, 19, 5),
        num_heads=(6, 12, 24, 48),
        mlp_ratio=2.0,
        drop_path_rate=drop_path_rate,
        layer_scale=1e-5,
    )


# Paper, table 1 and appendix A; tiny2, small2 and the large models: the official release's table of models.
VARIANTS = {
    "gcvit_xxtiny": GCViTConfig(depths=(2, 2, 6, 2), drop_path_rate=0.2),
    "gcvit_xtiny": GCViTConfig(depths=(3, 4, 6, 5), drop_path_rate=0.2),
    "gcvit_tiny": GCViTConfig(depths=(3, 4, 19, 5), drop_path_rate=0.2),
    "gcvit_tiny2": GCViTConfig(depths=(3, 4, 29, 5), drop_path_rate=0.25),
    "gcvit_small": GCViTConfig(
        embed_dim=96,
        depths=(3, 4, 19, 5),
        num_heads=(3, 6, 12, 24),
        mlp_ratio=2.0,
        drop_path_rate=0.3,
        layer_scale=1e-5,
    ),
    "gcvit_small2": GCViTConfig(
        embed_dim=96,
        depths=(3, 4, 23, 5),
        num_heads=(3, 6, 12, 24),
        mlp_ratio=3.0,
        drop_path_rate=0.35,
        layer_scale=1e-5,
    ),
    "gcvit_base": GCViTConfig(
        embed_dim=128,
        depths=(3, 4, 19, 5),
        num_heads=(4, 8, 16, 32),
        mlp_ratio=2.0,
        drop_path_rate=0.5,
        layer_scale=1e-5,
    ),
    "gcvit_large": _large(224, 0.5),
    "gcvit_large_384": _large(384, 0.1),
    "gcvit_large_512": _large(512, 0.1),
}

# On ImageNet-1k, in percent, by the official release's table; the last two were pretrained on ImageNet-21k.
PUBLISHED_TOP1 = {
    "gcvit_xxtiny": 79.9,
    "gcvit_xtiny": 82.0,
    "gcvit_tiny": 83.5,
    "gcvit_tiny2": 83.7,
    "gcvit_small": 84.3,
    "gcvit_small2": 84.8,
    "gcvit_base": 85.0,
    "gcvit_large": 85.7,
    "gcvit_large_384": 87.4,
    "gcvit_large_512": 87.6,
}

# Evaluation crops of the official release; 1.0 and "center" for all other variants.
_CROP_FRACTIONS = dict.fromkeys(("gcvit_xtiny", "gcvit_tiny2", "gcvit_small", "gcvit_small2"), 0.875)
_CROP_MODES = dict.fromkeys(("gcvit_large_384", "gcvit_large_512"), "squash")


def default_preprocessing(variant: str | None, image_size: Size, in_channels: int = 3) -> Preprocessing:
    """The official evaluation crop of `variant` at `image_size`; a full center crop for None."""
    variant = variant or ""
    crop_fraction, crop_mode = _CROP_FRACTIONS.get(variant, 1.0), _CROP_MODES.get(variant, "center")
    return for_channels(Preprocessing(image_size, crop_fraction, crop_mode), in_channels)


def for_channels(preprocessing: Preprocessing, channels: int) -> Preprocessing:
    """`preprocessing` for images of another number of channels, which take turns with its means and deviations.

    A single channel takes their averages.
    """
    if channels == preprocessing.channels:
        return preprocessing
    values = np.array([preprocessing.mean, preprocessing.std])
    if channels == 1:
        values = values.mean(1, keepdims=True)
    mean, std = values[:, np.arange(channels) % values.shape[1]].tolist()
    return dataclasses.replace(preprocessing, mean=mean, std=std)


def resolve_config(
    variant: str | GCViTConfig = "gcvit_xxtiny", *, reference: str | None = None, **fields: Any
) -> GCViTConfig:
    """The configuration of `variant` (a name in VARIANTS or a GCViTConfig) with `fields` replaced.

    With a new `image_size` and no `window_size`, the windows follow the official ratios. With `pad_to_windows`, a new
    `image_size` is ignored here: the configured size is then only nominal (it decides the query stages) and inputs may
    have any size. `reference` sets `relative_position_bias` and `query_pool_padding`.

    Raises:
      UserError: (a ValueError) an unknown variant, field or reference, a field that contradicts `reference`, or a
        size that does not fit.
    """
    if isinstance(variant, GCViTConfig):
        config = variant
    elif variant in VARIANTS:
        config = VARIANTS[variant]
    else:
        raise UserError(f"unknown variant {variant!r}: expected one of {', '.join(VARIANTS)}, or a GCViTConfig")
    known = [field.name for field in dataclasses.fields(GCViTConfig)]
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise UserError(f"unknown field {', '.join(unknown)}: a GCViTConfig has {', '.join(known)}")
    if reference is not None:
        check_choice("reference", reference, tuple(REFERENCES))
        bias, padding = REFERENCES[reference]
        for name, value in (("relative_position_bias", bias), ("query_pool_padding", padding)):
            if fields.setdefault(name, value) != value:
                raise UserError(
                    f"reference={reference!r} means {name}={value!r}, got {name}={fields[name]!r}: give only one"
                )
    if "image_size" in fields and "window_size" not in fields:
        if fields.get("pad_to_windows", config.pad_to_windows):
            del fields["image_size"]
        elif as_pair("image_size", fields["image_size"]) != config.image_size:
            fields["window_size"] = ()
    return dataclasses.replace(config, **fields)


def variant_name(config: GCViTConfig) -> str | None:
    """The published variant with this backbone, for any channels, classes, regularization and reference, or None."""
    ignored = ("num_classes", "drop_path_rate", "dropout_rate", "attention_dropout_rate", "pad_to_windows")
    settings = ("relative_position_bias", "query_pool_padding", "in_channels")
    free = {name: getattr(config, name) for name in (*ignored, *settings)}
    return next((name for name, known in VARIANTS.items() if dataclasses.replace(known, **free) == config), None)
