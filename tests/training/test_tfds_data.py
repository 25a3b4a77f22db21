"""Real tensorflow-datasets, prepared and read where TensorFlow is not installed."""

import importlib.util

import numpy as np
import pytest
import tensorflow_datasets as tfds

from gcvit_flax.config import Preprocessing
from gcvit_flax.training.data import open_data
from gcvit_flax.training.pipeline import evaluation_batches

COLOURS = ("blue_things", "green_things", "red_things")


class ThreeColours(tfds.core.GeneratorBasedBuilder):
    """The generated photos as a tensorflow-datasets builder."""

    VERSION = tfds.core.Version("1.0.0")
    root = None
    parts = ("train",)

    def _info(self):
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=COLOURS)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {part: self._generate_examples(part) for part in self.parts}

    def _generate_examples(self, part):
        for path in sorted(self.root.glob(f"{'val' if part == 'test' else 'train'}/*/*.jpg")):
            yield str(path), {"image": path, "label": path.parent.name}


@pytest.fixture
def prepare(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path), raising=False)

    def run(*parts, file_format="array_record"):
        monkeypatch.setattr(ThreeColours, "root", photos)
        monkeypatch.setattr(ThreeColours, "parts", parts)
        ThreeColours(data_dir=tmp_path, file_format=file_format).download_and_prepare()

    return run


def test_tensorflow_is_not_here():
    assert importlib.util.find_spec("tensorflow") is None, "these tests must show that it is not needed"


def test_a_prepared_data_set_is_split_and_read(prepare):
    prepare("train")
    data = open_data("tfds:three_colours", 0.25)
    assert (len(data.train), len(data.validation)) == (18, 6)
    assert data.class_names == COLOURS
    batch = next(evaluation_batches(data.validation, Preprocessing((16, 16)), batch_size=6))
    assert batch["image"].shape == (6, 16, 16, 3) and batch["mask"].all()
    brightest = batch["image"].mean((1, 2)).argmax(-1)
    np.testing.assert_array_equal(2 - brightest, batch["label"])  # The classes are named after their colour.


def test_a_test_split_is_the_validation_part_and_split_syntax_works(prepare):
    prepare("train", "test")
    data = open_data("tfds:three_colours")
    assert (len(data.train), len(data.validation)) == (24, 9)
    assert len(open_data("tfds:three_colours", split="train[:50%]").validation) == 12


def test_unknown_data_sets_say_how_to_prepare_one():
    with pytest.raises(ValueError, match=r"tfds:no_such_flowers cannot be opened .*tfds build no_such_flowers"):
        open_data("tfds:no_such_flowers")
