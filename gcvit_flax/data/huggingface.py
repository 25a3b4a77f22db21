"""Data sets of the library `datasets` (Hugging Face): Arrow files on disk, which are mapped and read at random."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gcvit_flax.data.decode import ImageSource, UnreadableImage
from gcvit_flax.data.sources import TRAIN, Dataset, check_label, hold_out, read_record
from gcvit_flax.data.spec import Parts
from gcvit_flax.errors import UserError, summarize_error

if TYPE_CHECKING:  # Slow to import.
    import datasets

_VALIDATION_SPLITS = ("validation", "valid", "val", "test")  # The first that exists is used.
_SAVED = ("dataset_dict.json", "state.json")  # One of them is in a folder that save_to_disk wrote.


class Columns(NamedTuple):
    """The names of the columns with images and labels, and of the classes."""

    image: str
    label: str
    class_names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class HuggingFaceSource:
    """One split. Images stay encoded, so that `decode` treats EXIF, CMYK and grayscale as for any other source."""

    examples: "datasets.Dataset"
    columns: Columns
    name: str

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[ImageSource, int, str]:
        name = f"{self.name}, example {index}"
        example = read_record(self.examples, index, name, "get the data again")
        label = check_label(example[self.columns.label], len(self.columns.class_names), name)
        image = example[self.columns.image] or {}
        content = image.get("bytes") or image.get("path")
        if not content:
            raise UnreadableImage(f"{name}: holds no image; remove the example")
        return content, label, name

    @property
    def labels(self) -> np.ndarray:
        """The labels of all examples, int64 (n,)."""
        column = self.examples.select_columns([self.columns.label]).with_format("arrow")[:].column(0)
        labels = column.fill_null(-1).to_numpy()
        for index in np.flatnonzero((labels < 0) | (labels >= len(self.columns.class_names)))[:1]:
            check_label(int(labels[index]), len(self.columns.class_names), f"{self.name}, example {index}")
        return labels


def open_huggingface(name: str, val_fraction: float, parts: Parts) -> Dataset:
    """Opens a folder that `save_to_disk` wrote, or what `load_dataset` makes of another folder or a name on the Hub.

    Without a validation or test split, a stratified `val_fraction` of the training part is held out.

    Raises:
      UserError: (a ValueError) data that cannot be opened, is not image classification, or lacks a part.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise UserError(f'hf:{name} needs the package datasets: pip install ".[hf]" brings it') from error
    try:
        loaded = _load(name)
    except Exception as error:  # It raises errors of many kinds: network, file format, scripts, configurations.
        raise UserError(
            f"hf:{name} cannot be opened ({summarize_error(error)}): give a folder that save_to_disk wrote, or the "
            "name of a data set on huggingface.co"
        ) from error
    splits = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {str(loaded.split or TRAIN): loaded}
    validation = parts.choose_validation(splits, _VALIDATION_SPLITS)
    train = parts.train or (TRAIN if TRAIN in splits else validation)  # Without train: for evaluation only.
    if train is None:
        raise UserError(
            f"hf:{name} has no split {TRAIN!r} or {' or '.join(map(repr, _VALIDATION_SPLITS))}: name one of "
            f"{', '.join(splits)} in brackets, as in hf:{name}[{next(iter(splits))}]"
        )
    source = _open_split(splits, f"hf:{name}", train)
    class_names = source.columns.class_names
    if validation is None:
        return hold_out(source, source.labels, class_names, val_fraction)
    return Dataset(source, _open_split(splits, f"hf:{name}", validation), class_names)


def _load(name: str) -> "datasets.Dataset | datasets.DatasetDict":
    import datasets

    folder = Path(name).expanduser()
    if any((folder / file).is_file() for file in _SAVED):
        return datasets.load_from_disk(folder)
    return datasets.load_dataset(str(folder) if folder.exists() else name)


def _open_split(splits: "dict[str, datasets.Dataset]", shown: str, split: str) -> HuggingFaceSource:
    """The split, or the slices of splits, that `split` names in the library's syntax."""
    import datasets

    try:
        lengths = {name: len(examples) for name, examples in splits.items()}
        slices = datasets.ReadInstruction.from_spec(split).to_absolute(lengths)
    except Exception as error:  # It raises errors of many kinds, assertions too.
        raise UserError(
            f"{shown} has no split {split!r} ({summarize_error(error)}): it has {', '.join(splits)}, "
            "and parts of them as in train[:50%]"
        ) from error
    chosen = [splits[part.splitname].select(range(part.from_, part.to)) for part in slices]
    columns = _find_columns(chosen[0].features, shown)
    examples = datasets.concatenate_datasets([part.select_columns([*columns[:2]]) for part in chosen])
    if not len(examples):
        raise UserError(f"{shown} has no examples in {split}: choose another split")
    examples = examples.cast_column(columns.image, datasets.Image(decode=False))
    return HuggingFaceSource(examples, columns, f"{shown} {split}")


def _find_columns(features: "datasets.Features", shown: str) -> Columns:
    """The columns of images and labels by their types; raises UserError unless there is one of each."""
    import datasets

    def only(kind: type) -> str:
        names = [name for name, feature in features.items() if isinstance(feature, kind)]
        if len(names) != 1:
            found: Sequence[str] = names or ["none"]
            raise UserError(
                f"{shown} has the columns {', '.join(features)}, of which {', '.join(found)} "
                f"{'is' if len(found) == 1 else 'are'} of the type {kind.__name__}, expected one: leave one with "
                "remove_columns or cast_column of the library datasets, and save the data with save_to_disk"
            )
        return names[0]

    image, label = only(datasets.Image), only(datasets.ClassLabel)
    return Columns(image, label, tuple(features[label].names))
