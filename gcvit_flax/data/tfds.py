"""Prepared tensorflow-datasets, read by random access without TensorFlow (ArrayRecord)."""

import dataclasses
from typing import Any

from gcvit_flax.data.decode import UnreadableImage
from gcvit_flax.data.sources import TRAIN, Dataset
from gcvit_flax.errors import UserError, summarize_error

_HELD_OUT = ("validation", "test")
# What the command line `tfds` needs beyond tensorflow-datasets itself, in 4.9.10.
_WITH_TOOLS = "where tensorflow, apache-beam, mlcroissant and importlib_resources are installed"


@dataclasses.dataclass(frozen=True)
class TfdsSource:
    """One split; images stay encoded, so that one decoder treats EXIF, CMYK and greyscale alike everywhere."""

    examples: Any
    name: str
    num_classes: int

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[Any, int, str]:
        name = f"{self.name}, example {index}"
        try:
            example = self.examples[index]
        except Exception as error:  # Damaged records make ArrayRecord and protobuf raise errors of many kinds.
            raise UnreadableImage(
                f"{name}: cannot be read ({summarize_error(error)}); prepare the data again"
            ) from error
        label = int(example["label"])
        if not 0 <= label < self.num_classes:
            raise UserError(
                f"{name} has the label {label}, expected 0 to {self.num_classes - 1}: "
                "choose a split that has labels, or prepare the data again"
            )
        return example["image"], label, name


def open_tfds(name: str, val_fraction: float, split: str | None) -> Dataset:
    """Opens the data set `name`, preparing it first where it is not on disk.

    Without a validation or test split, the last `val_fraction` of train is held out, in whole percents.

    Raises:
      UserError: (a ValueError) a data set that is unknown, cannot be prepared here, or is not image classification.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name)
        if not builder.is_prepared():
            _prepare(name)
        # From its files alone: a builder that tensorflow-datasets has code for misses formats that were added later.
        builder = tfds.builder_from_directory(builder.data_path)
        class_names = _check(builder, name)
        train, held_out = _choose_splits(builder, val_fraction, split)
        return Dataset(*(_open_split(builder, name, part, len(class_names)) for part in (train, held_out)), class_names)
    except UserError:
        raise
    except tfds.core.DatasetNotFoundError as error:
        raise UserError(
            f"tensorflow-datasets has no data set {name!r}: choose one of tensorflow.org/datasets/catalog that is in "
            "TFDS_DATA_DIR or can be prepared, or use folder:PATH"
        ) from error
    except Exception as error:  # Its errors are of many kinds: network, file format, split syntax.
        raise UserError(
            f"tfds:{name} cannot be opened ({summarize_error(error)}); {_build(name)}, or use folder:PATH"
        ) from error


def _prepare(name: str) -> None:
    """Downloads and prepares a data set, or says how to where people have to get the files themselves."""
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, file_format="array_record")
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        raise UserError(
            f"tfds:{name} is not in {tfds.core.constants.DATA_DIR} (TFDS_DATA_DIR names another place) and its files "
            f"have to be got by hand: {' '.join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())} Then, with manual_dir "
            f"being {tfds.core.constants.DATA_DIR}/downloads/manual, {_build(name)}, or unpack them and use folder:PATH"
        )
    builder.download_and_prepare()


def _build(name: str) -> str:
    return f"prepare it once with `tfds build {name} --file_format=array_record` {_WITH_TOOLS}"


def _check(builder, name: str) -> tuple[str, ...]:
    """The class names of images and labels that can be read by random access, or a UserError."""
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


def _choose_splits(builder, val_fraction: float, split: str | None) -> tuple[str, str]:
    """What to train and to validate on, in tfds split syntax."""
    held_out = split or next((part for part in _HELD_OUT if part in builder.info.splits), None)
    if held_out is None:
        percent = min(max(round(100 * (1 - val_fraction)), 1), 99)
        return f"{TRAIN}[:{percent}%]", f"{TRAIN}[{percent}%:]"
    return (TRAIN if TRAIN in builder.info.splits else held_out), held_out  # Without train it serves evaluation alone.


def _open_split(builder, name: str, split: str, num_classes: int) -> TfdsSource:
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
