"""A hundred random stops: runs end with the same metrics and the same bits as if there had been none."""

import collections
import os
import random

import numpy as np
import pytest
from cloud_storage import CloudStorage
from stops import StoppedRun

from gcvit_flax.weights.model_folder import read_folder

# Four runs share them.
STOPS = int(os.environ.get("STOPS", "100"))
IN_BUCKET = pytest.param("bucket", marks=pytest.mark.gcs)

pytestmark = pytest.mark.soak


@pytest.fixture
def folder(request, tmp_path, monkeypatch):
    """Where runs are kept: their parent's path, a reader of their files, and what leads programs there."""
    if request.param == "disk":

        def read(name: str) -> bytes | None:
            path = tmp_path / name
            return path.read_bytes() if path.exists() else None

        yield str(tmp_path), read, {}
        return
    with CloudStorage() as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        yield "gs://bucket", store.read, store.environment


@pytest.mark.parametrize("count", [1, 2], ids=["one process", "two processes"])
@pytest.mark.parametrize("folder", ["disk", IN_BUCKET], indirect=True)
def test_a_run_ends_as_if_it_had_not_been_stopped(count, folder, finetune, environment, tmp_path):
    parent, read, variables = folder
    rng = random.Random(f"{parent.partition(':')[0]} {count}")
    command = [*finetune, "--epochs", "1000", "--batch-size", "8", "--devices", "2", "--save-every", "2"]
    command += ["--ema-decay", "0.9"]

    def run(name: str) -> StoppedRun:
        cwd = tmp_path / f"{name}.output"
        cwd.mkdir()
        return StoppedRun(
            command, f"{parent}/{name}", count, lambda file: read(f"{name}/{file}"), {**environment, **variables}, cwd
        )

    stopped, whole = run("stopped"), run("whole")
    stops = collections.Counter(stopped.stop(rng) for _ in range(STOPS // 4))
    steps = max((record["step"] for record in stopped.metrics()), default=0) + 3
    stopped.finish("--max-steps", steps)
    whole.finish("--max-steps", steps)
    print(f"\n{count} processes in {parent}: {steps} steps, {dict(sorted(stops.items()))}")
    assert stopped.metrics() == whole.metrics()
    stopped_parameters, parameters = (read_folder(f"{parent}/{name}/model")[2] for name in ("stopped", "whole"))
    for name, value in parameters.items():
        np.testing.assert_array_equal(stopped_parameters[name], value, err_msg=name)
