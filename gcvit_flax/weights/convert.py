"""Weight file to model folder: recognize, map strictly, adapt, save, report."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etils import epath

from gcvit_flax.config import GCViTConfig
from gcvit_flax.errors import UserError
from gcvit_flax.fields import as_pair
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.model.tree import unflatten
from gcvit_flax.storage import check_reachable
from gcvit_flax.variants import default_preprocessing, resolve_config, variant_name
from gcvit_flax.weights.adapt import adapt
from gcvit_flax.weights.classes import imagenet_classes
from gcvit_flax.weights.conversion_report import TRAINED_NOTICE, ConversionReport, describe
from gcvit_flax.weights.download import fetch, is_published, origin, sha256
from gcvit_flax.weights.published import LICENSE
from gcvit_flax.weights.read import read_config, read_parameters
from gcvit_flax.weights.recognize import open_weight_file
from gcvit_flax.weights.save_folder import save_model

_IMAGENET_CLASSES = 1000


def convert(
    source: str | os.PathLike[str],
    dest: epath.PathLike,
    *,
    variant: str | None = None,
    reference: str = "official",
    num_classes: int | None = None,
    image_size: int | Sequence[int] | None = None,
    ema: bool = False,
    allow_nonfinite: bool = False,
    force: bool = False,
) -> ConversionReport:
    """Writes the weights in `source`, a file, an http(s) URL or a published name, as the model folder `dest`.

    `variant` is the one that the file must hold; `reference` chooses the forward pass; `num_classes` gives a new head
    and `image_size` (pixels) other windows; `ema` takes a PyTorch file's averaged weights; `force` replaces `dest`.

    Raises:
      UserError: `source` is not exactly one GCViT's finite weights, or `dest` exists; `dest` is untouched.
    """
    check_dest(dest, force)
    size = None if image_size is None else as_pair("image_size", image_size)
    path = fetch(source)
    with open_weight_file(path, ema=ema) as opened:
        config, names = read_config(opened, path, size)
        name = variant_name(config)
        if variant not in (None, name):
            raise UserError(f"{path} is {describe(config)}; expected {variant}: give its file, or name this variant")
        flat, changes = read_parameters(opened, path, names, allow_nonfinite=allow_nonfinite)
    config = resolve_config(config, reference=reference)
    requested: dict[str, Any] = {"num_classes": num_classes, "image_size": size}
    new_config = resolve_config(config, **{name: value for name, value in requested.items() if value is not None})
    averaged = ["averaged weights (state_dict_ema) taken"] if ema else []
    flat, adapted = adapt(flat, config, new_config, seed=0)
    report = ConversionReport(
        source=origin(source, path),
        size=path.stat().st_size,
        sha256=sha256(path),
        container=opened.container,
        family=opened.family,
        tensors=len(names),
        skipped=len(opened.skipped),
        parameters=sum(values.size for values in flat.values()),
        config=new_config,
        license=_license(source, path, config),
        changes=(*averaged, *changes, *adapted),
        notice=_notice(source, path, opened.family, reference),
        dest=os.fspath(dest),
    )
    kept_imagenet_head = config.num_classes == new_config.num_classes == _IMAGENET_CLASSES
    save_model(
        dest,
        GCViT(new_config, default_preprocessing(name, new_config.image_size, new_config.in_channels)),
        {"params": unflatten(flat)},
        class_names=imagenet_classes() if kept_imagenet_head else None,
        provenance=report.provenance(),
        weights_licence=report.license,
    )
    return report


def check_dest(dest: epath.PathLike, force: bool) -> None:
    """Raises UserError if `dest` exists and `force` is not set."""
    check_reachable(dest)
    if epath.Path(dest).exists() and not force:
        raise UserError(f"{dest} exists: choose another name, or pass --force to replace it")


def _license(source: str | os.PathLike[str], path: Path, config: GCViTConfig) -> str | None:
    if is_published(source, path):
        return LICENSE
    if variant_name(config) and config.num_classes == _IMAGENET_CLASSES:
        return f"{LICENSE} if these are, or derive from, the weights that NVIDIA published"
    return None


def _notice(source: str | os.PathLike[str], path: Path, family: str, reference: str) -> str | None:
    like_the_example = family in ("keras_io", "keras_subclass")
    if like_the_example and reference != "keras_io" and not is_published(source, path):
        return TRAINED_NOTICE
    return None
