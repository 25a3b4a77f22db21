"""Data sets that the library `datasets` has written to disk."""

import io
import json
import pickle
import sys

import datasets
import numpy as np
import pytest
from PIL import Image

from gcvit_flax.config import Preprocessing
from gcvit_flax.data.batches import evaluation_batches, training_batches
from gcvit_flax.data.datasets import open_data
from gcvit_flax.data.training_subset import TrainingSubset
from gcvit_flax.errors import UserError

SIZE = Preprocessing((16, 16))
COLORS = ("blue_things", "green_things", "red_things")
FEATURES = {"photo": datasets.Image(), "id": datasets.Value("int64"), "color": datasets.ClassLabel(names=COLORS)}
datasets.disable_progress_bars()


def make_split(photos, part: str, **changes) -> datasets.Dataset:
    """The photos of a part, which are stored as their files are; `changes` replace columns."""
    paths = sorted(photos.glob(f"{part}/*/*.jpg"))
    columns = {
        "photo": [{"bytes": path.read_bytes(), "path": None} for path in paths],
        "id": [*range(len(paths))],
        "color": [path.parent.name for path in paths],
    }
    return datasets.Dataset.from_dict(columns | changes, features=datasets.Features(FEATURES))


@pytest.fixture(scope="module")
def saved(photos, tmp_path_factory):
    """A folder with the splits train and test."""
    folder = tmp_path_factory.mktemp("saved") / "colors"
    parts = {"train": make_split(photos, "train"), "test": make_split(photos, "val")}
    datasets.DatasetDict(parts).save_to_disk(folder)
    return folder


def images(source) -> list[bytes]:
    return [source[index][0] for index in range(len(source))]


def test_columns_are_found_by_their_types_and_read(saved, photos):
    data = open_data(f"hf:{saved}")
    assert data.class_names == COLORS
    assert [len(data.train), len(data.validation)] == [24, 9]
    assert images(data.validation) == [path.read_bytes() for path in sorted(photos.glob("val/*/*.jpg"))]
    assert data.train.labels.tolist() == [data.train[index][1] for index in range(24)] == [0] * 8 + [1] * 8 + [2] * 8
    batch = next(evaluation_batches(data.validation, SIZE, batch_size=9))
    np.testing.assert_array_equal(2 - batch["image"].mean((1, 2)).argmax(-1), batch["label"])


def test_parts_in_brackets(saved, photos, tmp_path):
    whole = images(open_data(f"hf:{saved}").train)
    test = images(open_data(f"hf:{saved}").validation)
    data = open_data(f"hf:{saved}[train[10:]+train[:5]]")
    assert images(data.train) == whole[10:] + whole[:5] and images(data.validation) == test
    data = open_data(f"hf:{saved}[train[:75%],train[75%:]]")
    assert images(data.train) == whole[:18] and images(data.validation) == whole[18:]
    assert images(open_data(f"hf:{saved}", split="train[:3]").validation) == whole[:3]
    data = open_data(f"hf:{saved}[train+test]", 0.25)  # Nothing is left: some of each class is held out.
    assert np.bincount(data.train.labels).tolist() == [8, 8, 8]
    assert sorted(images(data.train) + images(data.validation)) == sorted(whole + test)
    with pytest.raises(
        UserError, match=r"has no split 'holdout' .*: it has train, test, and parts of them as in train"
    ):
        open_data(f"hf:{saved}[holdout]")
    with pytest.raises(UserError, match=r"has no examples in train\[:0\]: choose another split"):
        open_data(f"hf:{saved}[train[:0]]")
    shots = open_data(f"hf:{saved}", subset=TrainingSubset(shots=2)).train
    assert shots.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_one_split_alone(saved, photos, tmp_path):
    make_split(photos, "train").save_to_disk(tmp_path / "one")
    data = open_data(f"hf:{tmp_path / 'one'}", 0.25)
    assert np.bincount(data.train.labels).tolist() == [6, 6, 6] and len(data.validation) == 6
    datasets.DatasetDict({"test": make_split(photos, "val")}).save_to_disk(tmp_path / "test")
    data = open_data(f"hf:{tmp_path / 'test'}")  # For evaluation only.
    assert len(data.validation) == 9 and images(data.train) == images(data.validation)
    datasets.DatasetDict({"all": make_split(photos, "val")}).save_to_disk(tmp_path / "all")
    with pytest.raises(UserError, match=r"no split 'train' or .*: name one of all in brackets, as in hf:.*\[all\]$"):
        open_data(f"hf:{tmp_path / 'all'}")
    assert len(open_data(f"hf:{tmp_path / 'all'}[all]").train) == 6


def test_a_folder_of_images_is_what_the_library_makes_of_it(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    data = open_data(f"hf:{photos}")
    assert data.class_names == COLORS and [len(data.train), len(data.validation)] == [24, 9]
    next(training_batches(data.train, SIZE, batch_size=8, seed=0, start_step=0, crop_area=(0.5, 1.0)))


def test_data_without_one_column_of_each_type(photos, tmp_path):
    split = make_split(photos, "val")
    twice = split.add_column("shade", split["color"][:]).cast_column("shade", FEATURES["color"])
    for changed, expected in (
        (
            split.remove_columns("color"),
            "columns photo, id, of which none is of the type ClassLabel, expected one: lea",
        ),
        (
            twice,
            "has the columns photo, id, color, shade, of which color, shade are of the type ClassLabel, expected o",
        ),
        (split.remove_columns("photo"), "columns id, color, of which none is of the type Image, expected one: leave"),
    ):
        folder = tmp_path / changed._fingerprint
        changed.save_to_disk(folder)
        with pytest.raises(UserError, match=expected) as error:
            open_data(f"hf:{folder}")
        assert "\n" not in str(error.value)


def test_data_that_cannot_be_opened(tmp_path, monkeypatch, saved):
    with pytest.raises(
        UserError, match=r"^hf:/no/such/data cannot be opened \(.*: give a folder that save_to_disk wro"
    ):
        open_data("hf:/no/such/data")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(UserError, match="cannot be opened"):
        open_data(f"hf:{tmp_path}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r'needs the package datasets: pip install "\.\[hf\]" brings it'):
        open_data(f"hf:{saved}")


def test_images_that_cannot_be_read_are_named_and_can_be_skipped(photos, tmp_path, caplog):
    encoded = [{"bytes": path.read_bytes(), "path": None} for path in sorted(photos.glob("val/*/*.jpg"))]
    encoded[2]["bytes"], encoded[6] = b"roses are red", None
    make_split(photos, "val", photo=encoded).save_to_disk(tmp_path / "damaged")
    source = open_data(f"hf:{tmp_path / 'damaged'}", split="train").validation
    with pytest.raises(UserError, match=r"damaged train, example 2: not an image that Pillow can read"):
        list(evaluation_batches(source, SIZE, batch_size=3))
    batches = list(evaluation_batches(source, SIZE, batch_size=3, skip_corrupt=True))
    assert (
        np.concatenate([batch["mask"] for batch in batches]).tolist()
        == [True] * 2 + [False] + [True] * 3 + [False] + [True] * 2
    )
    assert any("example 6: holds no image; remove the example" in message for message in caplog.messages)


def test_parts_without_labels_are_named(photos, tmp_path):
    parts = {"train": make_split(photos, "train"), "test": make_split(photos, "val", color=[0, 1, None, -1] + [2] * 5)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "unlabeled")
    source = open_data(f"hf:{tmp_path / 'unlabeled'}").validation
    with pytest.raises(UserError, match="example 2 has the label None, expected 0 to 2: choose a split that has label"):
        list(evaluation_batches(source, SIZE, batch_size=3, skip_corrupt=True))
    with pytest.raises(UserError, match="example 2 has the label -1, expected 0 to 2"):
        source.labels  # noqa: B018


def test_images_stay_as_they_were_encoded(tmp_path):
    """So that `decode` turns them upright as it does files."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(stream, "JPEG", exif=exif)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    columns = {"image": [{"bytes": stream.getvalue(), "path": None}] * 4, "label": [0, 0, 1, 1]}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "turned")
    assert open_data(f"hf:{tmp_path / 'turned'}").train[0][0] == stream.getvalue()


def test_worker_processes_map_the_files(saved, photos, tmp_path):
    """What they are sent is small however many images there are, and the batches are those of threads."""
    big = datasets.concatenate_datasets([make_split(photos, "train")] * 50)
    big.save_to_disk(tmp_path / "big")
    few, many = (len(pickle.dumps(open_data(f"hf:{path}").train)) for path in (saved, tmp_path / "big"))
    assert abs(many - few) < 1000
    source = open_data(f"hf:{saved}").train
    options = {"batch_size": 4, "seed": 1, "start_step": 0, "crop_area": (0.5, 1.0)}
    made = []
    for workers in (0, 2):
        batches = training_batches(source, SIZE, workers=workers, **options)
        made.append([next(batches) for _ in range(4)])
        batches.close()
    for ours, theirs in zip(*made, strict=True):
        np.testing.assert_array_equal(ours["image"], theirs["image"])


@pytest.mark.programs
def test_from_training_to_evaluation(saved, finetune, run_command, tmp_path):
    command = [*finetune, "--data", f"hf:{saved}[train[:50%]+train[50%:]]", "--workers", "1"]
    process = run_command(*command)
    assert "data: 24 training and 9 validation images (hf:" in process.stdout
    config = json.loads((tmp_path / "runs/finetune/config.json").read_text())
    assert config["data_parts"] == "train[:50%]+train[50%:]" and config["class_names"] == [*COLORS]
    model = tmp_path / "runs/finetune/model"
    process = run_command("-m", "gcvit_flax.evaluate", model, "--data", f"hf:{saved}[train[:5]]", "--json")
    assert json.loads(process.stdout)["count"] == 5
    process = run_command("-m", "gcvit_flax.evaluate", model, "--data", f"hf:{saved}[no]", status=1)
    assert process.stderr.startswith(f"error: hf:{saved} has no split 'no'") and process.stderr.count("\n") == 1
    process = run_command(
        "-m", "gcvit_flax.evaluate", model, "--data", f"hf:{saved}[test]", "--split", "test", status=1
    )
    assert "names the part to evaluate on, and so does --split test" in process.stderr


def test_neither_torch_nor_tensorflow_is_needed(saved, run_command):
    program = f"import sys; from gcvit_flax.data.datasets import open_data; open_data('hf:{saved}').train[0]; "
    program += "print({'torch', 'tensorflow', 'jax'} & {*sys.modules})"
    assert run_command("-c", program).stdout.strip() == "set()"
