import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gcvit_flax.data.datasets import open_data
from gcvit_flax.errors import UserError


def test_the_three_folder_layouts(photos, tmp_path):
    data = open_data(f"folder:{photos}")
    assert (len(data.train), len(data.validation)) == (24, 9)
    assert data.class_names == ("blue_things", "green_things", "red_things")

    shutil.copytree(photos / "train", tmp_path / "a" / "train")
    shutil.copytree(photos / "train", tmp_path / "b")
    for layout in ("a", "b"):
        data = open_data(f"folder:{tmp_path / layout}", 0.25)
        assert (len(data.train), len(data.validation)) == (18, 6)
        assert np.bincount(data.validation.labels).tolist() == [2, 2, 2]
        assert not set(data.train.names) & set(data.validation.names)

    shutil.move(tmp_path / "a" / "train", tmp_path / "a" / "test")
    assert len(open_data(f"folder:{tmp_path / 'a'}").validation) == 24


def test_the_held_out_part_does_not_change(photos):
    names = [open_data(f"folder:{photos / 'train'}", 0.25).validation.names for _ in range(2)]
    assert names[0] == names[1]


def make_classes(root, **counts):
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (9, 9)).save(root / name / f"{index}.png")


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (dict(), "no class folders"),
        (dict(cat=2, dog=0), "class folder .*dog holds no images"),
        (dict(cat=3), "single class 'cat': a classifier needs at least two"),
        (dict(cat=3, dog=1), "class 'dog' has one image"),
    ],
)
def test_folders_that_cannot_be_learned_from(tmp_path, counts, expected):
    make_classes(tmp_path, **counts)
    with pytest.raises(ValueError, match=expected):
        open_data(f"folder:{tmp_path}")


def test_splits_that_do_not_fit_each_other(tmp_path, photos):
    make_classes(tmp_path / "train", cat=2, dog=2)
    make_classes(tmp_path / "val", cat=2, dog=1, cow=1)
    with pytest.raises(ValueError, match="has classes that the training data lacks: cow"):
        open_data(f"folder:{tmp_path}")
    with pytest.raises(ValueError, match="no folder 'holdout' to use as the split: it holds train, val"):
        open_data(f"folder:{photos}", split="holdout")


@pytest.mark.parametrize(
    ("removed", "expected"),
    [
        ("", "^{root} holds no class folders: expected {root}/CLASS/IMAGE$"),
        ("dog", "^class folder {root}/dog is missing: add some images, or remove the class$"),
    ],
    ids=["root", "class"],
)
def test_a_folder_removed_between_the_check_and_its_listing_is_named(tmp_path, monkeypatch, removed, expected):
    make_classes(tmp_path, cat=2, dog=2)
    is_dir, gone = Path.is_dir, tmp_path / removed

    def is_dir_and_then_removed(path):
        answer = is_dir(path)
        if path == gone:
            shutil.rmtree(gone, ignore_errors=True)
        return answer

    monkeypatch.setattr(Path, "is_dir", is_dir_and_then_removed)
    with pytest.raises(UserError, match=expected.format(root=tmp_path)):
        open_data(f"folder:{tmp_path}")


def test_files_that_are_not_images_are_ignored(tmp_path):
    make_classes(tmp_path, cat=3, dog=3)
    (tmp_path / "cat" / "notes.txt").write_text("meow")
    (tmp_path / "dog" / ".hidden.png").write_text("")
    data = open_data(f"folder:{tmp_path}", 0.34)
    assert len(data.train) + len(data.validation) == 6
