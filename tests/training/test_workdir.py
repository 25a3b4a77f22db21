import json

import pytest

from gcvit_flax.training.metrics import MetricsLog, read_metrics
from gcvit_flax.training.workdir import locked, prepare


def test_a_workdir_goes_on_with_the_same_settings_alone(tmp_path):
    prepare(tmp_path, {"seed": 1, "depths": (1, 2), "workers": 0}, frozenset({"workers"}), resume=True)
    prepare(tmp_path, {"seed": 1, "depths": (1, 2), "workers": 4}, frozenset({"workers"}), resume=True)
    assert json.loads((tmp_path / "config.json").read_text())["workers"] == 4
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"seed was 1 and is now 2"):
        prepare(tmp_path, {"seed": 2, "depths": (1, 2)}, frozenset({"workers"}), resume=True)


def test_a_run_that_trained_nothing_gives_way(tmp_path):
    prepare(tmp_path, {"seed": 1}, frozenset(), resume=True)
    prepare(tmp_path, {"seed": 2}, frozenset(), resume=True)
    assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 2}


def test_starting_afresh_removes_what_a_run_wrote_and_nothing_else(tmp_path):
    prepare(tmp_path, {"seed": 1}, frozenset(), resume=True)
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    (tmp_path / "events.out.tfevents.1.host").touch()
    (tmp_path / "notes.txt").touch()
    prepare(tmp_path, {"seed": 2}, frozenset(), resume=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "notes.txt"]


@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_of_other_things_is_left_alone(tmp_path, resume):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"not empty and holds no run \(thesis.tex"):
        prepare(tmp_path, {}, frozenset(), resume)


def test_one_run_at_a_time(tmp_path):
    with (
        locked(tmp_path / "run"),
        pytest.raises(ValueError, match="in use by another run"),
        locked(tmp_path / "run"),
    ):
        pass
    with locked(tmp_path / "run"):
        pass


def test_metrics_beyond_the_checkpoint_are_dropped(tmp_path):
    log = MetricsLog(tmp_path, 0)
    for step in (1, 2, 3):
        log.write(step, step / 2, val_top1=step / 10, val_loss=1.0)
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 4, "trai')  # As a crash leaves it.
    log = MetricsLog(tmp_path, 2)
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]
    assert not log.improves({"val_top1": 0.2, "val_loss": 1.5})
    assert log.improves({"val_top1": 0.2, "val_loss": 0.5})
    log.write(3, 1.5, train_loss=0.5)
    log.close()
    assert read_metrics(tmp_path)[-1] == {"step": 3, "epoch": 1.5, "train_loss": 0.5}
