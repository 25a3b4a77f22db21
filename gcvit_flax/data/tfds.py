"""Prepared tensorflow-datasets, read by random access without TensorFlow (ArrayRecord)."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gcvit_flax.data.decode import ImageSource
from gcvit_flax.data.sources import TRAIN, Dataset, check_label, hold_out_last, read_record
from gcvit_flax.data.spec import Parts
from gcvit_flax.errors import UserError, summarize_error

if TYPE_CHECKING:  # Slow to import.
    import tensorflow_datasets as tfds

_VALIDATION_SPLITS = ("validation", "test")  # The first that exists is used.
# The command line `tfds` of 4.9.10 needs more than tensorflow-datasets itself.
_WITH_TOOLS = "where tensorflow, apache-beam, mlcroissant and importlib_resources are installed"


@dataclasses.dataclass(frozen=True)
class TfdsSource:
    """One split. Images stay encoded, so that `decode` treats EXIF, CMYK and grayscale as for any other source."""

    examples: Sequence[dict[str, Any]]
    name: str
    num_classes: int

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[ImageSource, int, str]:
        name = f"{self.name}, example {index}"
        example = read_record(self.examples, index, name, "prepare the data again")
        return example["image"], check_label(int(example["label"]), self.num_classes, name), name

    @property
    def labels(self) -> np.ndarray:
        """The labels of all examples, int64 (n,); every record is read for them."""
        return np.array([self[index][1] for index in range(len(self))])


def open_tfds(name: str, val_fraction: float, parts: Parts) -> Dataset:
    """Opens the data set `name`, and prepares it first if it is not on disk.

    Without a validation or test split, the last `val_fraction` of train is held out, rounded to whole percents, or of
    the training part that `parts` names.

    Raises:
      UserError: (a ValueError) a data set that is unknown, cannot be prepared here, or is not image classification.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name)
        if not builder.is_prepared():
            _prepare(name)
        # From the files alone: a builder of tensorflow-datasets' own code misses file formats that were added later.
        builder = tfds.builder_from_directory(builder.data_path)
        class_names = _class_names(builder, name)
        train, validation = _choose_splits(builder, val_fraction, parts)
        source = _open_split(builder, name, train, len(class_names))
        if validation is None:
            return hold_out_last(source, class_names, val_fraction)
        return Dataset(source, _open_split(builder, name, validation, len(class_names)), class_names)
    except UserError:
        raise
    except tfds.core.DatasetNotFoundError as error:
        raise UserError(
            f"tensorflow-datasets has no data set {name!r}: choose one of tensorflow.org/datasets/catalog that is in "
            "TFDS_DATA_DIR or can be prepared, or use folder:PATH"
        ) from error
    except Exception as error:  # tensorflow-datasets raises errors of many kinds: network, file format, split syntax.
        raise UserError(
            f"tfds:{name} cannot be opened ({summarize_error(error)}); {_build_advice(name)}, or use folder:PATH"
        ) from error


def _prepare(name: str) -> None:
    """Downloads and prepares a data set; raises UserError with instructions if its files must be obtained by hand."""
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, file_format="array_record")
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        raise UserError(
            f"tfds:{name} is not in {tfds.core.constants.DATA_DIR} (TFDS_DATA_DIR names another place) and its files "
            f"have to be got by hand: {' '.join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())} Then, with manual_dir "
            f"being {tfds.core.constants.DATA_DIR}/downloads/manual, {_build_advice(name)}, "
            "or unpack them and use folder:PATH"
        )
    builder.download_and_prepare()


def _build_advice(name: str) -> str:
    return f"prepare it once with `tfds build {name} --file_format=array_record` {_WITH_TOOLS}"


def _class_names(builder: "tfds.core.DatasetBuilder", name: str) -> tuple[str, ...]:
    """The class names; raises UserError unless this is image classification in a format with random access."""
    import tensorflow_datasets as tfds

    stored = builder.info.available_file_formats()
    if not stored & tfds.core.FileFormat.with_random_access():
        raise UserError(
            f"tfds:{name} is stored as {', '.join(sorted(form.value for form in stored))}, which only TensorFlow "
            f"reads, expected array_record: convert it once with `tfds convert_format --dataset_version_dir="
            f"{builder.data_path} --out_file_format=array_record` {_WITH_TOOLS}"
        )
    features = builder.info.features
    if not {"image", "label"} <= set(features) or not isinstance(features["label"], tfds.features.ClassLabel):
        raise UserError(
            f"tfds:{name} has the features {', '.join(sorted(features))}: expected image, and label of the type "
            "ClassLabel; choose an image classification set"
        )
    return tuple(features["label"].names)


def _choose_splits(builder: "tfds.core.DatasetBuilder", val_fraction: float, parts: Parts) -> tuple[str, str | None]:
    """The training and the validation split, in tfds split syntax; None if the latter has to be held out."""
    validation = parts.choose_validation(builder.info.splits, _VALIDATION_SPLITS)
    if parts.train is not None:
        return parts.train, validation
    if validation is None:
        percent = min(max(round(100 * (1 - val_fraction)), 1), 99)
        return f"{TRAIN}[:{percent}%]", f"{TRAIN}[{percent}%:]"
    return (TRAIN if TRAIN in builder.info.splits else validation), validation  # Without train: for evaluation only.


def _open_split(builder: "tfds.core.DatasetBuilder", name: str, split: str, num_classes: int) -> TfdsSource:
    import tensorflow_datasets as tfds

    known = builder.info.splits
    try:
        count = known[split].num_examples
    except (KeyError, ValueError) as error:
        raise UserError(
            f"tfds:{name} has no split {split!r} ({summarize_error(error)}): it has {', '.join(known)}, "
            "and parts of them as in train[:50%]"
        ) from error
    if not count:
        raise UserError(f"tfds:{name} has no examples in {split}: choose another split or --val-fraction")
    examples = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    return TfdsSource(examples, f"tfds:{name} {split}", num_classes)
