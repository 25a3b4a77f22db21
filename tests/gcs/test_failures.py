"""What is wrong with a bucket is one sentence, soon, and costs no checkpoint."""

import pytest
from orbax.checkpoint import type_handlers
from test_runs import metrics, saved_steps

from gcvit_flax.weights import params_checkpoint

pytestmark = pytest.mark.gcs


def the_sentence(process) -> str:
    """The one line that a program says about an error."""
    lines = [
        line for line in process.stderr.splitlines() if "google_auth_provider" not in line
    ]  # TensorStore's notice.
    assert len(lines) == 1 and lines[0].startswith("error: "), process.stderr
    return lines[0]


def test_a_bucket_that_is_not_there(run_command, finetune):
    failed = run_command(*finetune, "--workdir", "gs://mistyped/runs/x", status=1)
    assert "gs://mistyped does not exist: correct the name" in the_sentence(failed)
    failed = run_command("-m", "gcvit_flax.predict", "gs://mistyped/model", "x.jpg", status=1)
    assert "gs://mistyped does not exist: correct the name" in the_sentence(failed)


@pytest.mark.parametrize(
    ("requests", "status", "expected"),
    [
        ("GET .*/b/bucket/o", 403, "gs://bucket may not be used (made to fail by a test): get the right"),
        ("GET .*/b/bucket/o", 401, "gs://bucket needs credentials"),
        (
            "GET .*/b/bucket[?]",
            403,
            "gs://bucket/runs/refused may not be used (made to fail by a test)",
        ),  # Orbax's own.
        ("POST .*config.json", 403, "gs://bucket/runs/refused may not be used (made to fail by a test)"),
    ],
)
def test_a_right_that_is_missing(store, run_command, finetune, requests, status, expected):
    store.fail(requests, status)
    assert expected in the_sentence(run_command(*finetune, "--workdir", "gs://bucket/runs/refused", status=1))


def test_a_server_that_is_down(run_command, finetune):
    nobody = {"STORAGE_EMULATOR_HOST": "http://127.0.0.1:9"}  # The port of a service that no system runs any more.
    failed = run_command(*finetune, "--workdir", "gs://bucket/runs/down", status=1, **nobody)
    assert "gs://bucket cannot be reached" in the_sentence(failed) and "check the network" in failed.stderr


def test_no_credentials(run_command, finetune, tmp_path):
    nobody = {"STORAGE_EMULATOR_HOST": "", "HOME": str(tmp_path), "NO_GCE_CHECK": "true"}
    failed = run_command(*finetune, "--workdir", "gs://bucket/runs/x", status=1, **nobody)
    assert "gs://bucket needs credentials" in the_sentence(failed)
    assert "gcloud auth application-default login" in failed.stderr


def test_a_save_that_fails_costs_no_earlier_checkpoint(store, run_command, finetune):
    command = [*finetune, "--workdir", "gs://bucket/runs/quota", "--save-every", "2"]
    run_command(*command, "--max-steps", "2")
    store.fail("POST .*runs/quota/checkpoints/", 403, "the quota is exceeded", spared=8)
    failed = the_sentence(run_command(*command, status=1))
    assert "a checkpoint cannot be written in gs://bucket/runs/quota/checkpoints (" in failed
    assert "the quota is exceeded): make room" in failed and "tensorstore_spec" not in failed
    store.recover()
    assert {"2", "4"} <= saved_steps(store, "runs/quota")  # The second has begun.
    assert "steps 3 to 6 of 6" in run_command(*command).stdout
    assert [*metrics(store, "runs/quota", "train_loss")] == [1, 2, 3, 4, 5, 6]


def test_a_model_that_cannot_be_written_leaves_nothing(store, run_command, finetune):
    command = [*finetune, "--workdir", "gs://bucket/runs/unwritten", "--max-steps", "1"]
    store.fail("POST .*runs/unwritten/model/", 403, "the quota is exceeded", spared=3)
    failed = the_sentence(run_command(*command, status=1))
    assert "the model cannot be written to gs://bucket/runs/unwritten/model (" in failed
    store.recover()
    assert store.names("runs/unwritten/model") == []


def test_events_that_cannot_be_written_are_a_warning(store, run_command, finetune):
    store.fail("POST .*tfevents", 403)
    done = run_command(*finetune, "--workdir", "gs://bucket/runs/eventless", "--max-steps", "1")
    assert "events cannot be written" in done.stderr and "Traceback" not in done.stderr
    assert "curves.png" in {name.split("/")[-1] for name in store.names("runs/eventless/")}


def test_requests_are_not_repeated_for_long():
    """A server that answers 503 is tried for half a minute, which this does not wait for."""
    assert params_checkpoint.save_params  # Its module sets this.
    context = type_handlers.get_ts_context().spec.to_json()
    assert context["gcs_request_retries"] == {"max_retries": 5}
