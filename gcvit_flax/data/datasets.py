"""Opens the data set that a command line names."""

from pathlib import Path

from gcvit_flax.data.digits import open_digits
from gcvit_flax.data.folders import open_folder
from gcvit_flax.data.sources import Dataset
from gcvit_flax.errors import UserError


def open_data(spec: str, val_fraction: float = 0.1, split: str | None = None) -> Dataset:
    """Opens the data set `spec`: `digits`, `folder:PATH` or `tfds:NAME`.

    A folder holds PATH/train/CLASS/IMAGE, with PATH/val or PATH/test beside it or not, or PATH/CLASS/IMAGE. Without a
    validation part, a stratified `val_fraction` is held out with a fixed seed. `split` names the validation part: a
    folder below PATH, or a split in tfds syntax.

    Raises:
      UserError: (a ValueError) data that is missing, empty or of one class only, or a `spec` of another form.
    """
    if not 0 < val_fraction < 1:
        raise UserError(f"--val-fraction must be above 0 and below 1, got {val_fraction}")
    kind, _, name = spec.partition(":")
    if spec == "digits":
        if split is not None:
            raise UserError(f"digits has no split {split!r}: leave --split out")
        data = open_digits(val_fraction)
    elif kind == "folder" and name:
        data = open_folder(Path(name).expanduser(), val_fraction, split)
    elif kind == "tfds" and name:
        from gcvit_flax.data.tfds import open_tfds

        data = open_tfds(name, val_fraction, split)
    else:
        raise UserError(f"unknown data {spec!r}: expected digits, folder:PATH or tfds:NAME")
    if len(data.class_names) < 2:
        raise UserError(f"{spec} has the single class {data.class_names[0]!r}: a classifier needs at least two")
    return data
