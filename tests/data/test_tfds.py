"""Real tensorflow-datasets, prepared and read where TensorFlow is not installed."""

import importlib.util
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from gcvit_flax.config import Preprocessing
from gcvit_flax.data.batches import evaluation_batches, training_batches
from gcvit_flax.data.datasets import open_data
from gcvit_flax.data.training_subset import TrainingSubset
from gcvit_flax.errors import UserError

SIZE = Preprocessing((16, 16))
COLORS = ("blue_things", "green_things", "red_things")


class ThreeColors(tfds.core.GeneratorBasedBuilder):
    """The generated photos as a tensorflow-datasets builder."""

    VERSION = tfds.core.Version("1.0.0")
    root = None
    parts = ("train",)
    unlabeled = ()

    def _info(self):
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=COLORS)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {part: self._generate_examples(part) for part in self.parts}

    def _generate_examples(self, part):
        for path in sorted(self.root.glob(f"{'val' if part == 'test' else 'train'}/*/*.jpg")):
            yield str(path), {"image": path, "label": -1 if part in self.unlabeled else path.parent.name}


@pytest.fixture
def prepare(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path), raising=False)

    def run(*parts, unlabeled=()):
        monkeypatch.setattr(ThreeColors, "root", photos)
        monkeypatch.setattr(ThreeColors, "parts", parts)
        monkeypatch.setattr(ThreeColors, "unlabeled", unlabeled)
        ThreeColors(data_dir=tmp_path, file_format="array_record").download_and_prepare()
        return tmp_path / "three_colors" / "1.0.0"

    return run


def test_tensorflow_is_not_installed():
    assert importlib.util.find_spec("tensorflow") is None, "these tests must show that it is not needed"


def test_a_prepared_data_set_is_split_and_read(prepare):
    prepare("train")
    data = open_data("tfds:three_colors", 0.25)
    assert (len(data.train), len(data.validation)) == (18, 6)
    assert data.class_names == COLORS
    batch = next(evaluation_batches(data.validation, SIZE, batch_size=6))
    assert batch["image"].shape == (6, 16, 16, 3) and batch["mask"].all()
    brightest = batch["image"].mean((1, 2)).argmax(-1)
    np.testing.assert_array_equal(2 - brightest, batch["label"])  # The classes are named after their color.


def test_a_test_split_is_the_validation_part(prepare):
    prepare("train", "test")
    data = open_data("tfds:three_colors")
    assert (len(data.train), len(data.validation)) == (24, 9)


def test_split_syntax_is_taken_and_slices_are_disjoint(prepare):
    prepare("train")
    data = open_data("tfds:three_colors", 0.1)
    assert [data.train.name, data.validation.name] == [f"tfds:three_colors train[{part}]" for part in (":90%", "90%:")]
    whole = read_images(open_data("tfds:three_colors", split="train").validation)
    assert len(whole) == 24 and read_images(data.train) + read_images(data.validation) == whole
    parts = [open_data("tfds:three_colors", split=f"train[{part}]").validation for part in (":80%", "80%:")]
    assert [len(part) for part in parts] == [19, 5]
    assert read_images(parts[0]) + read_images(parts[1]) == whole
    with pytest.raises(UserError, match=r"has no examples in train\[99%:\]: choose another split or --val-fraction"):
        open_data("tfds:three_colors", 0.001)
    with pytest.raises(UserError, match=r"has no split 'holdout' .*: it has train, and parts of them"):
        open_data("tfds:three_colors", split="holdout")


def test_named_parts_are_trained_on_and_the_rest_is_held_out_of_them(prepare):
    prepare("train", "test")
    whole = read_images(open_data("tfds:three_colors", split="train").validation)
    data = open_data("tfds:three_colors[train[:50%]]")
    assert read_images(data.train) == whole[:12] and len(data.validation) == 9
    data = open_data("tfds:three_colors[train[:18],train[18:]]")
    assert read_images(data.train) == whole[:18] and read_images(data.validation) == whole[18:]
    data = open_data("tfds:three_colors[train[50%:]+test]", 0.2)  # Nothing is left to validate on.
    assert (len(data.train), len(data.validation)) == (17, 4)
    everything = read_images(data.train) + read_images(data.validation)
    assert everything[:12] == whole[12:]
    with pytest.raises(UserError, match="one image is not enough to hold some out"):
        open_data("tfds:three_colors[test[:1]+train[:0]]")


def test_few_shots_read_the_labels_from_the_records(prepare):
    prepare("train")
    train = open_data("tfds:three_colors", subset=TrainingSubset(shots=2)).train
    assert sorted(train[index][1] for index in range(len(train))) == [0, 0, 1, 1, 2, 2]


def read_images(source) -> list[bytes]:
    return [source[index][0] for index in range(len(source))]


def test_evaluation_needs_no_training_split(prepare):
    prepare("test")
    assert len(open_data("tfds:three_colors").validation) == 9


def test_the_folder_is_that_of_the_environment(prepare, tmp_path, run_command):
    """In a new process, since tensorflow-datasets reads the environment when it is imported."""
    prepare("train")
    program = "from gcvit_flax.data.datasets import open_data; print(len(open_data('tfds:three_colors').train))"
    assert run_command("-c", program, TFDS_DATA_DIR=tmp_path).stdout.split() == ["22"]


def test_labels_outside_the_classes_are_named(prepare):
    prepare("train", "test", unlabeled=("test",))
    source = open_data("tfds:three_colors").validation
    expected = r"^tfds:three_colors test, example \d has the label -1, expected 0 to 2: choose a split that has labels"
    with pytest.raises(UserError, match=expected):
        next(evaluation_batches(source, SIZE, batch_size=3))
    with pytest.raises(UserError, match=expected):  # A wrong label is not a corrupt image.
        next(
            training_batches(source, SIZE, batch_size=3, seed=0, start_step=0, crop_area=(0.5, 1.0), skip_corrupt=True)
        )


def test_a_damaged_record_is_named_and_can_be_skipped(prepare):
    (file,) = prepare("train").glob("*.array_record-*")
    content = bytearray(file.read_bytes())
    content[20_000:20_100] = bytes(100)
    file.write_bytes(content)
    source = open_data("tfds:three_colors", split="train").validation
    with pytest.raises(UserError, match=r"tfds:three_colors train, example \d+: "):
        list(evaluation_batches(source, SIZE, batch_size=8))
    batches = list(evaluation_batches(source, SIZE, batch_size=8, skip_corrupt=True))
    assert 0 < sum(batch["mask"].sum() for batch in batches) < 24


def test_tfrecord_is_refused_with_the_command_that_converts_it(prepare):
    folder = prepare("train")
    as_tfrecord(folder)
    for file in folder.glob("*.array_record-*"):
        file.rename(str(file).replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match="stored as tfrecord, which only TensorFlow reads") as error:
        open_data("tfds:three_colors")
    assert f"`tfds convert_format --dataset_version_dir={folder} --out_file_format=array_record`" in str(error.value)


def test_a_converted_data_set_is_read(prepare):
    """`tfds convert_format` adds array_record files, and lists the format as an alternative."""
    as_tfrecord(prepare("train"), alternativeFileFormats=["array_record"])
    assert len(open_data("tfds:three_colors").train) == 22


def as_tfrecord(folder, **fields):
    info = folder / "dataset_info.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "fileFormat": "tfrecord", **fields}))


def test_missing_data_sets_say_how_to_prepare_them(prepare):
    expected = "tensorflow-datasets has no data set 'no_such_flowers': choose one of tensorflow.org/datasets/catalog"
    with pytest.raises(UserError, match=expected):
        open_data("tfds:no_such_flowers")
    expected = (
        r"not in /.* ILSVRC2012_img_train.tar .*`tfds build imagenet2012 --file_format=array_record` where tensor"
    )
    with pytest.raises(UserError, match=expected):
        open_data("tfds:imagenet2012")
