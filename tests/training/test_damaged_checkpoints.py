import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from small import flips

from gcvit_flax.errors import UserError
from gcvit_flax.training import checkpoints as checkpoints_module
from gcvit_flax.training.checkpoints import Checkpoints
from gcvit_flax.training.steps import TrainState


def state_at(step: int) -> TrainState:
    params = {"head": {"kernel": jnp.arange(300.0) * step}}
    return TrainState(jnp.int32(step), None, params, None, {"mu": -params["head"]["kernel"]}, None)


@pytest.fixture
def folder(tmp_path) -> epath.Path:
    folder = epath.Path(tmp_path) / "checkpoints"
    with Checkpoints(folder, keep=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(state_at(step))
    return folder


def restored_step(folder: epath.Path) -> int:
    with Checkpoints(folder, keep=3) as checkpoints:
        state = checkpoints.restore(jax.eval_shape(lambda: state_at(0)))
    step = int(state.step)
    np.testing.assert_array_equal(state.params["head"]["kernel"], state_at(step).params["head"]["kernel"])
    return step


def flip(path: epath.Path, position: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


def test_any_flipped_byte_is_found_and_the_run_goes_on_from_before(folder, caplog, tmp_path):
    whole = shutil.copytree(folder, tmp_path / "whole")
    names = {path.name for path in (whole / "3").rglob("*")}
    assert {"_METADATA", "_CHECKPOINT_METADATA", "checksums.txt", "commit_success.txt"} <= names
    for path, content in flips(whole / "3", 50):
        folder.rmtree()
        shutil.copytree(whole, folder)
        (folder / "3" / path).write_bytes(content)
        caplog.clear()
        assert restored_step(folder) == 2
        (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        expected = "is damaged: the checkpoint is now 3.damaged, and the run goes on from step 2"
        assert warning == f"{folder / '3' / path} {expected}"
        assert (folder / "3.damaged" / path).read_bytes() == content


def test_files_that_are_gone_or_new_are_found(folder, caplog):
    (folder / "3" / "default" / "_METADATA").unlink()
    (folder / "2" / "default" / "d" / "more").touch()
    assert restored_step(folder) == 1
    assert "3/default/_METADATA is missing" in caplog.text and "2/default/d/more has been added" in caplog.text


def test_a_step_that_was_set_aside_is_saved_again_and_kept(folder):
    for name in ("3.damaged", "3.damaged-2"):
        flip(folder / "3" / "checksums.txt")
        with Checkpoints(folder, keep=2) as checkpoints:
            assert checkpoints.latest_step == 2
            checkpoints.best_step = 1
            checkpoints.save(state_at(3))
        assert restored_step(folder) == 3
        assert (folder / name / "checksums.txt").exists()
    assert {path.name for path in folder.iterdir()} == {"1", "2", "3", "3.damaged", "3.damaged-2"}


def test_without_a_whole_one_nothing_is_moved(folder):
    before = sorted(path.name for path in folder.iterdir())
    for step in before:
        flip(folder / step / "default" / "_METADATA")
    for _ in range(2):
        with pytest.raises(
            UserError, match=r"no checkpoint in .* is whole \(.*3/default/_METADATA is damaged; .*2/def"
        ):
            Checkpoints(folder, keep=3)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_damage_to_the_description_of_an_older_one_is_found_before_it_is_read(folder, caplog):
    (folder / "1" / "_CHECKPOINT_METADATA").write_bytes(b"{")
    assert restored_step(folder) == 3
    assert "1/_CHECKPOINT_METADATA is damaged" in caplog.text and (folder / "1.damaged").exists()


@pytest.mark.parametrize("names", [["checksums.txt"], ["default/_METADATA", "default/manifest.ocdbt"]])
def test_an_older_one_of_which_kill_has_left_a_part_is_no_damage(folder, names, caplog):
    for name in names:
        (folder / "1" / name).unlink()
    assert restored_step(folder) == 3
    assert (folder / "1").exists() and "damaged" not in caplog.text


def test_a_checkpoint_of_a_version_without_checksums_is_accepted(folder):
    (folder / "3" / "checksums.txt").unlink()
    assert restored_step(folder) == 3


def test_killed_at_any_moment_of_a_save_leaves_a_whole_checkpoint(folder, tmp_path, monkeypatch):
    """Copies of the folder, taken before and after each of the two parts of the checksums are written."""
    copies = []

    def copying(function):
        def call(folder, step):
            for act in (lambda *_: None, function):
                act(folder, step)
                copies.append(epath.Path(shutil.copytree(folder, tmp_path / f"copy {len(copies)}")))

        return call

    for name in ("write_before_commit", "add_after_commit"):
        monkeypatch.setattr(checkpoints_module, name, copying(getattr(checkpoints_module, name)))
    with Checkpoints(folder, keep=2) as checkpoints:
        checkpoints.save(state_at(4))
    monkeypatch.undo()
    assert [restored_step(copy) for copy in copies] == [3, 3, 4, 4]
    flip(copies[2] / "4" / "default" / "manifest.ocdbt")  # Committed, and only a part of the checksums is there.
    for copy in copies[2:]:
        if copy == copies[3]:
            flip(copy / "4" / "_CHECKPOINT_METADATA")
        assert restored_step(copy) == 3 and (copy / "4.damaged").exists()
