"""gs:// paths, on a stand-in that lives in memory; Orbax reaches the real store by a way of its own."""

import fsspec
import numpy as np
import pytest
import tensorboardX
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem

from gcvit_flax.training.report.metrics import MetricsLog, read_metrics
from gcvit_flax.training.workdir import locked, read_run_config, run_to_resume, start_afresh, write_run_config


@pytest.fixture
def workdir(monkeypatch):
    fsspec.register_implementation("gs", MemoryFileSystem, clobber=True)
    fsspec.register_implementation("gcs", MemoryFileSystem, clobber=True)
    monkeypatch.setattr(fsspec, "filesystem", lambda name, **_: MemoryFileSystem())
    yield epath.Path("gs://bucket/run")
    MemoryFileSystem.store.clear()


def test_a_run_goes_on_and_starts_afresh(workdir):
    with locked(workdir):
        assert run_to_resume(workdir, {"seed": 1}, frozenset(), resume=True) is None
        write_run_config(workdir, {"seed": 1})
    assert read_run_config(workdir) == {"seed": 1}
    (workdir / "checkpoints" / "3").mkdir(parents=True)
    (workdir / "checkpoints" / "3" / "data").write_bytes(b"0")
    assert run_to_resume(workdir, {"seed": 1}, frozenset(), resume=True) == {"seed": 1}
    assert run_to_resume(workdir, {"seed": 2}, frozenset(), resume=False) is None
    start_afresh(workdir)
    assert not (workdir / "checkpoints").exists()


def test_metrics_and_curves(workdir, monkeypatch):
    events = []
    writer = type("Writer", (), {"add_scalar": lambda self, *scalar: events.append(scalar), "close": lambda self: None})
    monkeypatch.setattr(tensorboardX, "SummaryWriter", lambda folder, **_: writer())
    log = MetricsLog(workdir, 0)
    for step in (1, 2):
        log.write(step, step / 2, train_loss=1 / step)
    log.close()
    assert [record["step"] for record in read_metrics(workdir)] == [1, 2] and len(events) == 2
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
    MetricsLog(workdir, 1).write(2, 1.0, train_loss=0.25)
    np.testing.assert_allclose([record["train_loss"] for record in read_metrics(workdir)], [1, 0.25])
