"""Opens the data set that a command line names."""

import dataclasses
from pathlib import Path

from gcvit_flax.data.digits import open_digits
from gcvit_flax.data.folders import open_folder
from gcvit_flax.data.huggingface import open_huggingface
from gcvit_flax.data.sources import Dataset
from gcvit_flax.data.spec import Parts, name_evaluated_part, parse_spec
from gcvit_flax.data.training_subset import TrainingSubset
from gcvit_flax.errors import UserError


def open_data(
    spec: str, val_fraction: float = 0.1, split: str | None = None, subset: TrainingSubset | None = None
) -> Dataset:
    """Opens the data set `spec`: `digits`, `folder:PATH`, `tfds:NAME` or `hf:NAME_OR_PATH`, with [PARTS] or without.

    A folder holds PATH/train/CLASS/IMAGE, with PATH/val or PATH/test beside it or not, or PATH/CLASS/IMAGE. Without a
    validation part, a stratified `val_fraction` is held out with a fixed seed. [TRAIN] or [TRAIN,VALIDATION] names
    parts, and `split` the validation part: folders below PATH, or splits and slices of them as in `train[:10%]`. Of
    the training part, `subset` is used.

    Raises:
      UserError: (a ValueError) data that is missing, empty or of one class only, or a `spec` of another form.
    """
    if not 0 < val_fraction < 1:
        raise UserError(f"--val-fraction must be above 0 and below 1, got {val_fraction}")
    named, parts = parse_spec(spec)
    if split is not None:
        if parts.validation is not None:
            raise UserError(f"{spec} names the validation part, and so does --split {split}: leave one of them out")
        parts = dataclasses.replace(parts, validation=split)
    data = _open(named, val_fraction, parts)
    if len(data.class_names) < 2:
        raise UserError(f"{spec} has the single class {data.class_names[0]!r}: a classifier needs at least two")
    return data if subset is None else dataclasses.replace(data, train=subset.of(data.train, data.class_names))


def open_to_evaluate(spec: str, val_fraction: float, split: str | None) -> Dataset:
    """Opens `spec` as `open_data` does, but a single part in brackets is the validation part."""
    data, evaluated = name_evaluated_part(spec, split)
    return open_data(data, val_fraction, evaluated)


def _open(named: str, val_fraction: float, parts: Parts) -> Dataset:
    """The parts of the data set `named`, all its training images among them."""
    kind, _, name = named.partition(":")
    if named == "digits":
        if part := parts.train or parts.validation:
            raise UserError(f"digits has no split {part!r}: leave --split out, and brackets")
        return open_digits(val_fraction)
    if kind == "folder" and name:
        return open_folder(Path(name).expanduser(), val_fraction, parts)
    if kind == "tfds" and name:
        from gcvit_flax.data.tfds import open_tfds

        return open_tfds(name, val_fraction, parts)
    if kind == "hf" and name:
        return open_huggingface(name, val_fraction, parts)
    raise UserError(f"unknown data {named!r}: expected digits, folder:PATH, tfds:NAME or hf:NAME_OR_PATH")
