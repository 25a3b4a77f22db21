import shutil

import pytest
from etils import epath

from gcvit_flax.training.report.metrics import MetricsLog, read_metrics, score
from gcvit_flax.training.workdir import locked, read_run_config, run_to_resume, start_afresh, write_run_config


@pytest.fixture
def workdir(tmp_path) -> epath.Path:
    return epath.Path(tmp_path)


def start(workdir, facts: dict, checkpoint: bool = True, resume: bool = True) -> None:
    assert run_to_resume(workdir, facts, frozenset(), resume) is None
    start_afresh(workdir)
    write_run_config(workdir, facts | {"model": "as it was"})
    if checkpoint:
        (workdir / "checkpoints" / "5").mkdir(parents=True)


def test_a_run_goes_on_with_the_same_facts_alone(workdir):
    start(workdir, {"seed": 1, "depths": (1, 2), "workers": 0})
    saved = run_to_resume(workdir, {"seed": 1, "depths": (1, 2), "workers": 4}, frozenset({"workers"}), resume=True)
    assert saved["model"] == "as it was"
    with pytest.raises(ValueError, match=r"seed was 1 and is now 2"):
        run_to_resume(workdir, {"seed": 2, "depths": (1, 2), "workers": 0}, frozenset(), resume=True)


@pytest.mark.parametrize("content", [b'{"seed"', b"\xff\xfe", b"[1, 2]"])
def test_a_damaged_config_is_named(workdir, content):
    start(workdir, {"seed": 1})
    (workdir / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config.json is damaged \(.+\): choose another --workdir; --no-resume would"):
        run_to_resume(workdir, {"seed": 1}, frozenset(), resume=True)


def test_a_run_that_trained_nothing_gives_way(workdir):
    start(workdir, {"seed": 1}, checkpoint=False)
    (workdir / "checkpoints" / "5.orbax-checkpoint-tmp-17").mkdir(parents=True)  # As a crash in a save leaves it.
    start(workdir, {"seed": 2})
    assert read_run_config(workdir)["seed"] == 2


def test_starting_afresh_removes_what_a_run_wrote_and_nothing_else(workdir):
    start(workdir, {"seed": 1})
    (workdir / "events.out.tfevents.1.host").touch()
    (workdir / "profile" / "plugins").mkdir(parents=True)
    (workdir / "notes.txt").touch()
    (workdir / "config.json").write_text('{"seed"')  # Damaged.
    assert run_to_resume(workdir, {"seed": 2}, frozenset(), resume=False) is None
    assert (workdir / "checkpoints" / "5").exists()  # Until all is known to fit.
    start_afresh(workdir)
    assert sorted(path.name for path in workdir.iterdir()) == ["config.json", "notes.txt"]


def test_a_crash_while_starting_afresh_is_no_dead_end(workdir, monkeypatch):
    def crash(path, *_, **__):
        raise KeyboardInterrupt

    start(workdir, {"seed": 1})
    (workdir / "notes.txt").touch()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", crash)
        start_afresh(workdir)
    assert run_to_resume(workdir, {"seed": 1}, frozenset(), resume=True) is None  # Half removed, it is no run any more.
    start_afresh(workdir)  # And another before config.json was written.
    start(workdir, {"seed": 3})
    assert read_run_config(workdir)["seed"] == 3


def test_a_crash_before_the_first_line_is_no_dead_end(workdir):
    with locked(workdir):
        (workdir / "config.json.partial").touch()
    start(workdir, {"seed": 4})


@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_of_other_things_is_left_alone(workdir, resume):
    (workdir / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"not empty and holds no run, but thesis.tex:"):
        run_to_resume(workdir, {}, frozenset(), resume)


def test_one_run_at_a_time(workdir):
    with (
        locked(workdir / "run"),
        pytest.raises(ValueError, match="in use by another run"),
        locked(workdir / "run"),
    ):
        pass
    with locked(workdir / "run"):
        pass


def test_metrics_beyond_the_checkpoint_are_dropped(workdir):
    log = MetricsLog(workdir, 0)
    for step in (1, 2, 3):
        log.write(step, step / 2, val_top1=step / 10, val_loss=1.0)
    log.close()
    with (workdir / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 4, "trai')  # As a crash leaves it.
    log = MetricsLog(workdir, 2)
    assert [record["step"] for record in read_metrics(workdir)] == [1, 2]
    assert log.best("val") == (2, score({"top1": 0.2, "loss": 1.0})) and log.best("ema_val")[0] is None
    assert score({"top1": 0.2, "loss": 1.5}) < log.best("val")[1] < score({"top1": 0.2, "loss": 0.5})
    assert score({"top1": 0.2, "loss": 0.5}) < score({"top1": 0.2 + 1e-6, "loss": 100.0})
    log.write(3, 1.5, train_loss=0.5)
    log.close()
    assert read_metrics(workdir)[-1] == {"step": 3, "epoch": 1.5, "train_loss": 0.5}


def test_other_hosts_write_nothing(workdir):
    log = MetricsLog(workdir, 0, writes=False)
    log.write(1, 0.5, val_top1=0.3, val_loss=1.0)
    log.close()
    assert not list(workdir.iterdir())
    assert log.best("val") == (1, score({"top1": 0.3, "loss": 1.0}))
