"""Model folders in a bucket: written by the converter and from Python, and read by every program."""

import json

import pytest
from small import FIXTURES, ROOT

pytestmark = pytest.mark.gcs

CONVERT = ROOT / "convert_keras_weights.py"
COPY = """
from gcvit_flax import load_model, save_model
model, variables = load_model("gs://bucket/models/micro")
for name in ("copy", "copy"):  # The second replaces the first.
    save_model(f"gs://bucket/models/{name}", model, variables, class_names=["class"] * model.config.num_classes)
"""


def test_a_model_is_converted_copied_and_used(store, run_command, photos):
    command = [CONVERT, FIXTURES / "micro.keras315.keras", "gs://bucket/models/micro"]
    assert "gs://bucket/models/micro" in run_command(*command).stdout
    assert "gs://bucket/models/micro exists" in run_command(*command, status=1).stderr
    store.write("models/copy/params-0123/killed")  # As a first save leaves it that is killed.
    run_command("-c", COPY)
    (checkpoint,) = {name.split("/")[2] for name in store.names("models/copy/params-")}
    assert json.loads(store.read("models/copy/config.json"))["checkpoint"] == checkpoint

    image = photos / "val" / "red_things" / "0.jpg"
    run_command(CONVERT, FIXTURES / "micro.keras315.keras", "disk")
    expected = run_command("-m", "gcvit_flax.predict", "disk", image).stdout
    assert run_command("-m", "gcvit_flax.predict", "gs://bucket/models/micro", image).stdout == expected
    assert "class" in run_command("-m", "gcvit_flax.predict", "gs://bucket/models/copy", image).stdout


def test_what_is_written_to_disks_alone(run_command):
    run_command(CONVERT, FIXTURES / "micro.keras315.keras", "disk")
    for command in (
        [CONVERT, "disk", "gs://bucket/back.keras", "--to", "keras_io"],
        ["-m", "gcvit_flax.export", "disk", "gs://bucket/exported"],
    ):
        refused = run_command(*command, status=1).stderr
        assert refused.startswith("error: gs://bucket/") and "is not on a disk" in refused


def test_compiled_programs_are_kept_in_a_bucket(store, run_command, photos):
    """A second process, as on a machine that was just made, compiles nothing again."""
    run_command(CONVERT, FIXTURES / "micro.keras315.keras", "disk")
    predict = ["-m", "gcvit_flax.predict", "disk", photos / "val" / "red_things" / "0.jpg"]
    every = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    for number in (1, 2):
        before = len(store.requests())
        run_command(*predict, JAX_COMPILATION_CACHE_DIR="gs://bucket/compiled", **every)
        written = [request for request in store.requests()[before:] if "name=compiled/jit_" in request]
        assert bool(written) == (number == 1)
    assert store.names("compiled/jit_")
    done = run_command(*predict, JAX_COMPILATION_CACHE_DIR="gs://mistyped/compiled")
    assert "compiled programs cannot be kept (gs://mistyped does not exist" in done.stderr
