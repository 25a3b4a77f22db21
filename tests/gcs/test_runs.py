"""Training runs in a bucket, through the real command line."""

import json
import subprocess
import sys

import pytest
from small import free_address

pytestmark = pytest.mark.gcs


def metrics(store, folder: str, name: str) -> dict[int, float]:
    """A number in metrics.jsonl by its step."""
    records = map(json.loads, (store.read(f"{folder}/metrics.jsonl") or b"").splitlines())
    return {record["step"]: record[name] for record in records if name in record}


def saved_steps(store, folder: str) -> set[str]:
    """The checkpoints of which anything is left."""
    return {name.removeprefix(f"{folder}/checkpoints/").split("/")[0] for name in store.names(f"{folder}/checkpoints/")}


def test_a_run_starts_resumes_ends_and_starts_afresh(store, run_command, finetune, photos):
    store.write("runs/first/")  # The mark with which Google's console makes an empty folder.
    before = len(store.requests())
    command = [*finetune, "--workdir", "gs://bucket/runs/first"]
    first = run_command(*command, "--max-steps", "3")
    assert "steps 1 to 3 of 6" in first.stdout and "best model is in gs://bucket/runs/first/model" in first.stdout
    second = run_command(*command)
    assert "steps 4 to 6 of 6" in second.stdout
    assert [*metrics(store, "runs/first", "train_loss")] == [1, 2, 3, 4, 5, 6]
    names = [name.removeprefix("runs/first/") for name in store.names("runs/first/")]
    assert {"config.json", "metrics.jsonl", "curves.png", "model/config.json"} < {*names}
    assert store.read("runs/first/curves.png").startswith(b"\x89PNG")
    assert "checkpoints/6/commit_success.txt" in names
    events = [name for name in names if name.startswith("events.out.tfevents.")]
    assert len(events) == 2 and all(b"train_loss" in store.read(f"runs/first/{name}") for name in events)
    assert "gs://bucket/runs/first: this run is done, at step 6" in run_command(*command).stdout
    scores = run_command("-m", "gcvit_flax.evaluate", "gs://bucket/runs/first/model", "--data", f"folder:{photos}")
    assert "over 9 images" in scores.stdout

    other = run_command(*command, "--seed", "1", status=1)
    assert "holds a run of another configuration (seed was 0 and is now 1)" in other.stderr
    afresh = run_command(*command, "--seed", "1", "--no-resume", "--max-steps", "1")
    assert "steps 1 to 1 of 6" in afresh.stdout
    assert [*metrics(store, "runs/first", "train_loss")] == [1] and saved_steps(store, "runs/first") == {"1"}
    # A rename would copy every object, and leave half of them where it is interrupted.
    assert not [request for request in store.requests()[before:] if "To/" in request]


def test_a_folder_of_other_things_is_left_alone(store, run_command, finetune):
    store.write("other/thesis.tex")
    refused = run_command(*finetune, "--workdir", "gs://bucket/other", status=1)
    assert "gs://bucket/other is not empty and holds no run, but thesis.tex:" in refused.stderr
    assert store.names("other/") == ["other/thesis.tex"]


def test_a_partly_removed_run_is_none_to_resume(store, run_command, finetune):
    """As a kill leaves it that strikes after one of the removals with which --no-resume begins."""
    command = [*finetune, "--workdir", "gs://bucket/runs/removed", "--max-steps", "2"]
    run_command(*command)
    store.fail("DELETE .*checkpoints/", 403, spared=1)
    assert "may not be used" in run_command(*command, "--no-resume", status=1).stderr
    store.recover()
    assert saved_steps(store, "runs/removed") == {"2"}
    assert "steps 1 to 2 of" in run_command(*command, "--seed", "1").stdout


def test_a_run_goes_on_from_before_a_damaged_checkpoint(store, run_command, finetune):
    command = [*finetune, "--workdir", "gs://bucket/runs/damaged", "--save-every", "1"]
    run_command(*command, "--max-steps", "2")
    (arrays,) = [name for name in store.names("runs/damaged/checkpoints/2/default/d/")][:1]
    content = bytearray(store.read(arrays))
    content[len(content) // 2] ^= 1
    store.write(arrays, bytes(content))
    resumed = run_command(*command)
    assert "steps 2 to 6 of 6" in resumed.stdout
    expected = f"gs://bucket/{arrays} is damaged: the checkpoint is now 2.damaged, and the run goes on from step 1"
    assert expected in resumed.stderr
    assert store.read(arrays.replace("checkpoints/2/", "checkpoints/2.damaged/")) == bytes(content)
    assert saved_steps(store, "runs/damaged") == {"2.damaged", "5", "6"}


def test_two_processes_train_in_one_folder(store, finetune, environment, tmp_path):
    for steps, expected in ((2, "steps 1 to 2 of"), (3, "steps 3 to 3 of")):
        options = ["--workdir", "gs://bucket/runs/two", "--devices", "1", "--max-steps", str(steps)]
        options += ["--coordinator", free_address(), "--num-processes", "2"]
        command = [sys.executable, *map(str, finetune), *options]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        processes = [
            subprocess.Popen([*command, "--process-id", str(number)], cwd=tmp_path, env=environment, **pipes)
            for number in range(2)
        ]
        try:
            outputs = [process.communicate(timeout=300)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert [process.returncode for process in processes] == [0, 0], outputs
        assert expected in outputs[0]
    assert [*metrics(store, "runs/two", "train_loss")] == [1, 2, 3]
    assert "runs/two/model/config.json" in store.names("runs/two/model/")
