"""Training runs in a bucket, through the real command line."""

import json

import pytest

pytestmark = pytest.mark.gcs


def metrics(store, folder: str) -> list[dict]:
    return [json.loads(line) for line in (store.read(f"{folder}/metrics.jsonl") or b"").splitlines()]


def test_a_run_starts_resumes_ends_and_starts_afresh(store, run_command, finetune):
    before = len(store.requests())
    command = [*finetune, "--workdir", "gs://bucket/runs/first"]
    first = run_command(*command, "--max-steps", "3")
    assert "steps 1 to 3 of 6" in first.stdout and "best model is in gs://bucket/runs/first/model" in first.stdout
    second = run_command(*command)
    assert "steps 4 to 6 of 6" in second.stdout
    assert [line["step"] for line in metrics(store, "runs/first") if "train_loss" in line] == [1, 2, 3, 4, 5, 6]
    names = [name.removeprefix("runs/first/") for name in store.names("runs/first/")]
    assert {"config.json", "metrics.jsonl", "curves.png", "model/config.json"} < {*names}
    assert store.read("runs/first/curves.png").startswith(b"\x89PNG")
    assert "checkpoints/6/commit_success.txt" in names
    events = [name for name in names if name.startswith("events.out.tfevents.")]
    assert len(events) == 2 and all(b"train_loss" in store.read(f"runs/first/{name}") for name in events)
    assert f"{'gs://bucket/runs/first'}: this run is done, at step 6" in run_command(*command).stdout

    run_command(*command, "--seed", "1", status=1)
    afresh = run_command(*command, "--seed", "1", "--no-resume", "--max-steps", "1")
    assert "steps 1 to 1 of 6" in afresh.stdout
    assert [line["step"] for line in metrics(store, "runs/first") if "train_loss" in line] == [1]
    assert {name.split("/")[3] for name in store.names("runs/first/checkpoints/")} == {"1"}
    # A rename would copy every object, and leave half of them where it is interrupted.
    assert not [request for request in store.requests()[before:] if "To/" in request]
