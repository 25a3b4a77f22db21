import contextlib
import multiprocessing
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from gcvit_flax.config import Preprocessing
from gcvit_flax.data import crops, random_crop
from gcvit_flax.data.batches import evaluation_batches, training_batches
from gcvit_flax.data.datasets import open_data
from gcvit_flax.data.sources import ListSource
from gcvit_flax.data.workers import STOP_SIGNALS, transport_options
from gcvit_flax.errors import UserError

SIZE = Preprocessing((8, 8))


def collect(source: ListSource, steps: int, **options) -> list[dict]:
    batches = training_batches(
        source, SIZE, **{"batch_size": 4, "seed": 1, "start_step": 0, "crop_area": (0.5, 1.0)} | options
    )
    return [next(batches) for _ in range(steps)]


@pytest.fixture(scope="module")
def numbered():
    """Ten images, each filled with its own number; the crop cannot change that."""
    images = [np.full((12, 15, 3), number, np.uint8) for number in range(10)]
    return ListSource(images, np.arange(10), [str(number) for number in range(10)])


def test_every_example_is_seen_once_per_epoch_in_a_new_order(numbered):
    labels = np.concatenate([batch["label"] for batch in collect(numbered, 5)])
    assert sorted(labels[:10]) == sorted(labels[10:]) == list(range(10))
    assert labels[:10].tolist() != labels[10:].tolist()
    batch = collect(numbered, 1)[0]
    assert batch["image"].shape == (4, 8, 8, 3) and batch["image"].dtype == np.uint8
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"])
    np.testing.assert_array_equal(batch["index"], [0, 1, 2, 3])


@pytest.fixture(scope="module")
def noise():
    rng = np.random.default_rng(0)
    return ListSource(list(rng.integers(0, 255, (10, 20, 20, 3), dtype=np.uint8)), np.arange(10), [""] * 10)


def test_a_batch_is_a_function_of_seed_and_step(noise):
    whole = collect(noise, 6)
    late = collect(noise, 2, start_step=4)
    for name in ("image", "label"):
        np.testing.assert_array_equal([batch[name] for batch in late], [batch[name] for batch in whole[4:]])
    other = collect(noise, 1, seed=2)[0]
    assert not np.array_equal(other["image"], whole[0]["image"])


def test_processes_take_contiguous_blocks_of_each_global_batch(noise):
    whole = collect(noise, 3, start_step=2)
    for process in range(2):
        shares = collect(noise, 3, start_step=2, process=(process, 2))
        for batch, share in zip(whole, shares, strict=True):
            np.testing.assert_array_equal(share["index"], [2 * process, 2 * process + 1])
            np.testing.assert_array_equal(share["image"], batch["image"][share["index"]])
            np.testing.assert_array_equal(share["label"], batch["label"][share["index"]])


def test_squashing_resizes_the_whole_image(noise):
    wide = ListSource([image[:10] for image in noise.images], noise.labels, noise.names)
    batch = collect(wide, 1, squash=True)[0]
    for image, label in zip(batch["image"], batch["label"], strict=True):
        whole = Image.fromarray(wide.images[label]).resize((8, 8), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(image, whole)


def test_repeats_come_in_turns_and_are_augmented_anew(noise):
    whole = collect(noise, 15, repeats=3)  # Six visits to every image: two permutations in as many steps as ever.
    labels = np.concatenate([batch["label"] for batch in whole])
    images = np.concatenate([batch["image"] for batch in whole])
    once = np.concatenate([batch["label"] for batch in collect(noise, 5)])
    for pair in range(10):
        first, second = once[2 * pair : 2 * pair + 2]
        assert labels[6 * pair : 6 * pair + 6].tolist() == [first, second] * 3
    assert np.bincount(labels[:30]).tolist() == np.bincount(labels[30:]).tolist() == [3] * 10
    assert len(np.unique(images.reshape(60, -1), axis=0)) == 60
    for process in range(2):
        late = collect(noise, 2, repeats=3, start_step=7, process=(process, 2))
        for batch, share in zip(whole[7:], late, strict=False):
            np.testing.assert_array_equal(share["image"], batch["image"][share["index"]])


def test_crops_are_resized_by_either_kernel(noise):
    made = {
        kernel: np.concatenate([batch["image"] for batch in collect(noise, 5, interpolation=kernel)])
        for kernel in ("bicubic", "bilinear", "random")
    }
    np.testing.assert_array_equal(made["bicubic"], np.concatenate([batch["image"] for batch in collect(noise, 5)]))
    equal = {kernel: (made["random"] == made[kernel]).all((1, 2, 3)).sum() for kernel in ("bicubic", "bilinear")}
    assert sum(equal.values()) == 20 and 4 < equal["bicubic"] < 16


@pytest.fixture
def damaged(tmp_path):
    """Ten image files: the third holds text and the seventh is missing."""
    paths = [tmp_path / f"{number}.png" for number in range(10)]
    for number, path in enumerate(paths):
        Image.new("RGB", (9, 9), (number, number, number)).save(path)
    paths[2].write_text("roses are red")
    paths[6].unlink()
    return ListSource(paths, np.arange(10), [str(path) for path in paths])


def test_a_readable_image_replaces_a_corrupt_one(damaged, caplog):
    batches = collect(damaged, 10, batch_size=2, skip_corrupt=True)
    assert all(batch["image"].shape == (2, 8, 8, 3) for batch in batches)
    labels = np.concatenate([batch["label"] for batch in batches])
    assert not {2, 6} & set(labels)
    np.testing.assert_array_equal(np.concatenate([batch["image"][:, 0, 0, 0] for batch in batches]), labels)
    whole = np.concatenate([batch["label"] for batch in collect(damaged_labels(damaged), 10, batch_size=2)])
    expected = np.isin(whole, (2, 6))
    np.testing.assert_array_equal(labels[~expected], whole[~expected])
    assert [batch["skipped"] for batch in batches] == expected.reshape(10, 2).sum(1).tolist()
    for name in ("2.png: not an image", "6.png: there is no such"):
        assert sum(name in message for message in caplog.messages) == 1, "named once, though met in two epochs"

    late = collect(damaged, 6, batch_size=2, skip_corrupt=True, start_step=4)
    np.testing.assert_array_equal([batch["label"] for batch in late], labels.reshape(10, 2)[4:])


def damaged_labels(damaged: ListSource) -> ListSource:
    """The same labels on readable images."""
    return ListSource([np.zeros((9, 9, 3), np.uint8)] * len(damaged), damaged.labels, damaged.names)


@pytest.mark.parametrize("squash", [False, True])
def test_an_image_for_which_there_is_no_memory_is_a_corrupt_one(damaged, monkeypatch, squash):
    """In training and in evaluation, whether it fails while it is read or resized."""

    def fail_for_the_fourth(function):
        def call(image, *rest):
            if np.asarray(image)[0, 0, 0] == 3:
                raise MemoryError
            return function(image, *rest)

        return call

    for module, name in ((random_crop, "resize_crop"), (crops, "evaluation_crop")):
        monkeypatch.setattr(module, name, fail_for_the_fourth(getattr(module, name)))
    labels = [batch["label"] for batch in collect(damaged, 10, batch_size=2, skip_corrupt=True, squash=squash)]
    assert {*np.ravel(labels)} == {0, 1, 4, 5, 7, 8, 9}
    (batch,) = evaluation_batches(damaged, SIZE, batch_size=10, skip_corrupt=True)
    assert [*np.flatnonzero(~batch["mask"])] == [2, 3, 6]
    with pytest.raises(UserError, match=r"3\.png: does not fit into the memory of this machine; shrink or remove it"):
        next(evaluation_batches(damaged_at(damaged, 3), SIZE, batch_size=1))


def damaged_at(damaged: ListSource, index: int) -> ListSource:
    """That image alone."""
    return ListSource([damaged.images[index]], damaged.labels[:1], [damaged.names[index]])


def test_worker_processes_give_the_same_batches(damaged):
    batches = [collect(damaged, 5, batch_size=2, skip_corrupt=True, workers=workers) for workers in (0, 2)]
    for a, b in zip(*batches, strict=True):
        assert a["skipped"] == b["skipped"]
        np.testing.assert_array_equal(a["image"], b["image"])


def test_without_a_readable_image_there_is_an_error(damaged):
    for path in damaged.images:
        path.unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"none of 10 images tried can be read: .*png: there is no such image file"):
        collect(damaged, 1, skip_corrupt=True)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_folder_that_vanishes_is_named_without_noise(tmp_path, workers, capfd):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for index in range(3):
            Image.new("RGB", (9, 9)).save(tmp_path / name / f"{index}.png")
    data = open_data(f"folder:{tmp_path}", 0.34)
    batches = training_batches(
        data.train, SIZE, batch_size=4, seed=0, start_step=0, crop_area=(0.5, 1.0), workers=workers
    )
    next(batches)
    shutil.rmtree(tmp_path / "dog")
    with pytest.raises(UserError, match=r"dog/\d.png: there is no such image file"):
        for _ in range(100):  # Some batches were read ahead.
            next(batches)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("process_count", [1, 2])
@pytest.mark.parametrize("batch_size", [2, 4, 32])
def test_evaluation_sees_every_example_once(numbered, batch_size, process_count):
    seen, lengths = [], set()
    for process in range(process_count):
        batches = list(evaluation_batches(numbered, SIZE, batch_size=batch_size, process=(process, process_count)))
        lengths.add(len(batches))
        for batch in batches:
            assert batch["image"].shape == (batch_size // process_count, 8, 8, 3)
            seen += batch["label"][batch["mask"]].tolist()
    assert sorted(seen) == list(range(10))
    assert len(lengths) == 1


def test_evaluation_masks_what_cannot_be_read(damaged, caplog):
    batches = list(evaluation_batches(damaged, SIZE, batch_size=4, skip_corrupt=True))
    seen = np.concatenate([batch["label"][batch["mask"]] for batch in batches])
    assert seen.tolist() == [0, 1, 3, 4, 5, 7, 8, 9]
    assert all(batch.keys() == {"image", "label", "mask"} for batch in batches)
    assert any("2.png" in message for message in caplog.messages)
    with pytest.raises(UserError, match=r"2.png: not an image"):
        list(evaluation_batches(damaged, SIZE, batch_size=4))


def test_a_text_file_named_jpg_is_named_by_the_pipeline(tmp_path):
    path = tmp_path / "poem.jpg"
    path.write_text("roses are red")
    source = ListSource([path] * 4, np.zeros(4, int), [str(path)] * 4)
    with pytest.raises(ValueError, match=r"poem.jpg: not an image that Pillow can read"):
        collect(source, 1)


@pytest.mark.parametrize("shared_memory", [True, False])
def test_workers_go_on_through_signals_and_end_with_the_batches(numbered, shared_memory, monkeypatch, caplog):
    transport_options.cache_clear()
    if not shared_memory:  # As in a container of Docker, but smaller still.
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    expected = collect(numbered, 12)
    options = {"batch_size": 4, "seed": 1, "start_step": 0, "crop_area": (0.5, 1.0)}
    with contextlib.closing(training_batches(numbered, SIZE, workers=2, **options)) as batches:
        found = [next(batches)]
        workers = multiprocessing.active_children()
        assert len(workers) == 2
        for worker in workers:
            for signum in STOP_SIGNALS:
                os.kill(worker.pid, signum)
        found += [next(batches) for _ in range(11)]
        assert all(worker.is_alive() for worker in workers)
    assert not multiprocessing.active_children()
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours["image"], theirs["image"])
    assert ("batches come through pipes" in caplog.text) == (not shared_memory)
    transport_options.cache_clear()
