"""Prepared tensorflow-datasets, read by random access without TensorFlow (ArrayRecord)."""

import dataclasses
from typing import Any

from gcvit_flax.errors import UserError
from gcvit_flax.training.data import TRAIN, Data

_HELD_OUT = ("validation", "test")


@dataclasses.dataclass(frozen=True)
class TfdsSource:
    """One split; images stay encoded, so that one decoder treats EXIF, CMYK and greyscale alike everywhere."""

    examples: Any
    name: str

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[Any, int, str]:
        example = self.examples[index]
        return example["image"], int(example["label"]), f"{self.name}, example {index}"


def open_tfds(name: str, val_fraction: float, split: str | None) -> Data:
    """Opens the data set `name`, preparing it first where it is not on disk.

    Without a validation or test split, the last `val_fraction` of train is held out.

    Raises:
      UserError: (a ValueError) a data set that is unknown, cannot be prepared here, or is not image classification.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, file_format="array_record")
        builder.download_and_prepare()
        percent = round(100 * (1 - val_fraction))
        held_out = split or next((part for part in _HELD_OUT if part in builder.info.splits), None)
        train = TRAIN if held_out else f"{TRAIN}[:{percent}%]"
        if not {"image", "label"} <= set(builder.info.features):
            raise UserError(f"tfds:{name} has the features {sorted(builder.info.features)}: expected image and label")
        return Data(
            _open_split(builder, name, train),
            _open_split(builder, name, held_out or f"{TRAIN}[{percent}%:]"),
            tuple(builder.info.features["label"].names),
        )
    except UserError:
        raise
    except Exception as error:  # Its errors are of many kinds: registry, network, file format, split syntax.
        first_line = str(error).strip().splitlines()[0]
        raise UserError(
            f"tfds:{name} cannot be opened ({first_line}); prepare it with "
            f"`tfds build {name} --file_format=array_record` where TensorFlow and the network are, and set "
            "TFDS_DATA_DIR, or use folder:PATH"
        ) from error


def _open_split(builder, name: str, split: str) -> TfdsSource:
    import tensorflow_datasets as tfds

    decoders = {"image": tfds.decode.SkipDecoding()}
    return TfdsSource(builder.as_data_source(split=split, decoders=decoders), f"tfds:{name} {split}")
