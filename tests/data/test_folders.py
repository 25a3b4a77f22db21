import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gcvit_flax.data.datasets import open_data
from gcvit_flax.data.sources import SPLIT_SEED, Source
from gcvit_flax.errors import UserError


def examples(source: Source) -> list[tuple[Path, int]]:
    """The path and the label of each example."""
    return [(Path(source[index][0]), source[index][1]) for index in range(len(source))]


def test_the_three_folder_layouts(photos, tmp_path):
    data = open_data(f"folder:{photos}")
    assert (len(data.train), len(data.validation)) == (24, 9)
    assert data.class_names == ("blue_things", "green_things", "red_things")

    shutil.copytree(photos / "train", tmp_path / "a" / "train")
    shutil.copytree(photos / "train", tmp_path / "b")
    for layout in ("a", "b"):
        data = open_data(f"folder:{tmp_path / layout}", 0.25)
        assert (len(data.train), len(data.validation)) == (18, 6)
        assert np.bincount([label for _, label in examples(data.validation)]).tolist() == [2, 2, 2]
        assert not {*examples(data.train)} & {*examples(data.validation)}

    shutil.move(tmp_path / "a" / "train", tmp_path / "a" / "test")
    assert len(open_data(f"folder:{tmp_path / 'a'}").validation) == 24


def test_parts_are_folders_by_name(photos, tmp_path):
    for name in ("train", "val", "extra"):
        shutil.copytree(photos / ("val" if name == "val" else "train"), tmp_path / name)
    for spec, roots, counts in (
        ("[extra]", ("extra", "val"), (24, 9)),
        ("[extra,train]", ("extra", "train"), (24, 24)),
        ("[val]", ("val", "val"), (6, 3)),  # What is trained on is not validated on: some is held out of it.
    ):
        data = open_data(f"folder:{tmp_path}{spec}", 0.25)
        assert (len(data.train), len(data.validation)) == counts
        for source, root in zip((data.train, data.validation), roots, strict=True):
            assert {path.parts[-3] for path, _ in examples(source)} == {root}
        assert not {*examples(data.train)} & {*examples(data.validation)}
    with pytest.raises(ValueError, match=r"no folder 'train\[:10%\]' to use as the split: it holds extra, train, val"):
        open_data(f"folder:{tmp_path}[train[:10%]]")


def test_brackets_may_be_part_of_a_folders_name(photos, tmp_path):
    root = tmp_path / "my [old] photos[train]"
    shutil.copytree(photos, root)
    assert len(open_data(f"folder:{root}").validation) == 9
    assert len(open_data(f"folder:{root}[val]").train) == 6


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.9])
def test_the_held_out_part_does_not_change(tmp_path, fraction):
    """It is drawn class by class from the sorted names: runs that were begun before resume with the same images."""
    counts = {"bird": 7, "cat": 2, "cat-fish": 23, "dog": 40}
    for name, count in counts.items():
        (tmp_path / name).mkdir()
        for index in range(count):
            (tmp_path / name / f"{index}.png").touch()
    data = open_data(f"folder:{tmp_path}", fraction)
    rng = np.random.default_rng(SPLIT_SEED)
    train, validation = [], []
    for label, (name, count) in enumerate(counts.items()):
        paths = sorted((tmp_path / name).iterdir())
        chosen = {*rng.permutation(count)[: min(max(1, round(fraction * count)), count - 1)]}
        for index, path in enumerate(paths):
            (validation if index in chosen else train).append((path, label))
    assert examples(data.train) == train
    assert examples(data.validation) == validation


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


def test_images_in_folders_of_a_class_belong_to_it(tmp_path):
    """At any depth and through links, in the order of paths part by part; not in what is hidden, nor in circles."""
    root, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for name in ("1.png", "a-1.png", "a/2.png", "a/b/c/3.JPG", "a/z.txt", "a/.h/4.png", ".h/5.png", "b.png", "e/x.txt"):
        (root / "train" / "cat" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "train" / "cat" / name).touch()
    elsewhere.mkdir()
    (elsewhere / "6.png").touch()
    (root / "train" / "cat" / "linked.png").symlink_to(elsewhere / "6.png")
    (root / "train" / "cat" / "linked").symlink_to(elsewhere)
    (root / "train" / "cat" / "a" / "b" / "back").symlink_to(root / "train" / "cat")
    (root / "train" / "cat" / "itself.png").symlink_to("itself.png")
    (root / "train" / "dog").symlink_to(elsewhere)
    (root / "val").symlink_to(root / "train")
    data = open_data(f"folder:{root}")
    cats = ("1.png", "a/2.png", "a/b/c/3.JPG", "a-1.png", "b.png", "itself.png", "linked/6.png", "linked.png")
    for source, part in ((data.train, "train"), (data.validation, "val")):
        expected = [(root / part / "cat" / name, 0) for name in cats] + [(root / part / "dog" / "6.png", 1)]
        assert examples(source) == expected
        assert [path for path, label in expected if label == 0] == sorted(
            path for path, label in expected if label == 0
        )


def test_class_folders_may_be_links_and_links_that_lead_back_are_none(tmp_path):
    real, linked = tmp_path / "real", tmp_path / "linked"
    make_classes(real, cat=2, dog=2)
    (real / "cat" / "up").symlink_to(real)
    linked.mkdir()
    for name, target in (("cat", real / "cat"), ("dog", real / "dog"), ("up", tmp_path), ("here", linked)):
        (linked / name).symlink_to(target)
    data = open_data(f"folder:{linked}", 0.5)
    assert data.class_names == ("cat", "dog")
    paths = [path for source in (data.train, data.validation) for path, _ in examples(source)]
    assert sorted(paths) == [linked / name for name in ("cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png")]


def test_names_need_not_be_text(tmp_path):
    make_classes(tmp_path, cat=2, dog=2)
    name = os.path.join(os.fsencode(tmp_path), b"cat", b"\xff two\nlines \xc3\xa4.png")
    os.rename(tmp_path / "cat" / "0.png", name)
    data = open_data(f"folder:{tmp_path}", 0.5)
    paths = [os.fsencode(path) for source in (data.train, data.validation) for path, _ in examples(source)]
    assert name in paths and all(os.path.exists(path) for path in paths)


@pytest.mark.parametrize("part", ["train", "validation"])
def test_worker_processes_are_not_sent_the_names(tmp_path, part):
    """What one of them is sent is as large for 20,000 images as for six, and the same examples."""
    for root, count in ((tmp_path / "few", 3), (tmp_path / "many", 10_000)):
        for name in ("cat", "dog"):
            (root / name).mkdir(parents=True)
            for index in range(count):
                (root / name / f"{index}.png").touch()
    few, many = (getattr(open_data(f"folder:{tmp_path / name}", 0.4), part) for name in ("few", "many"))
    assert abs(len(pickle.dumps(many)) - len(pickle.dumps(few))) < 100
    received = pickle.loads(pickle.dumps(many))
    assert len(received) == len(many) and [*map(received.__getitem__, range(99))] == [*map(many.__getitem__, range(99))]
