import concurrent.futures
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from small import flips, full_disk, random_variables

from gcvit_flax.config import Preprocessing
from gcvit_flax.errors import UserError
from gcvit_flax.model.gcvit import GCViT, create_model
from gcvit_flax.model.tree import flatten, parameter_shapes, unflatten
from gcvit_flax.weights import checksums, model_folder, params_checkpoint, save_folder
from gcvit_flax.weights.folder_config import read_folder_config
from gcvit_flax.weights.model_folder import load_model, load_with_description, save_model

NAMES = [f"class {i}" for i in range(10)]
_SIDES_OF_A_MILLION = {"image_size": [2**20] * 2, "window_size": [[2**15] * 2, [2**15] * 2, [2**16] * 2, [2**15] * 2]}


@pytest.fixture
def saved(tmp_path, micro):
    save_model(tmp_path / "m", *micro, class_names=NAMES, provenance={"source": "here"}, weights_licence="CC0")
    return tmp_path / "m"


def test_load_gives_back_the_model_and_its_parameters(saved, micro, assert_same_tree):
    model, variables = load_model(str(saved))
    assert model == micro[0]
    assert_same_tree(variables, micro[1])
    leaves = jax.tree.leaves(variables)
    assert all(isinstance(leaf, jax.Array) and leaf.dtype == jnp.float32 for leaf in leaves)
    assert all(leaf.devices() == {jax.devices()[0]} and not leaf.committed for leaf in leaves)


def test_the_config_describes_the_folder(saved, micro):
    folder_config = read_folder_config(saved)
    assert folder_config["class_names"] == NAMES
    assert folder_config["provenance"] == {"source": "here"}
    assert folder_config["weights_licence"] == "CC0"
    assert (folder_config["reference"], folder_config["variant"]) == ("official", None)
    assert folder_config["parameter_count"] == sum(leaf.size for leaf in jax.tree.leaves(micro[1]))
    assert sorted(entry.name for entry in saved.iterdir()) == ["config.json", folder_config["checkpoint"]]
    assert '"depths": [ 1, 2, 1, 1 ],' in (saved / "config.json").read_text()


def test_the_whole_configuration_survives(tmp_path, micro):
    preprocessing = Preprocessing((128, 128), 0.875, "squash", "bilinear", (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    model = create_model(micro[0].config, reference="keras_io", drop_path_rate=0.3, qk_scale=0.1, pad_to_windows=True)
    model = GCViT(model.config, preprocessing)
    save_model(tmp_path / "m", model, micro[1])
    assert load_model(tmp_path / "m")[0] == model
    assert load_model(tmp_path / "m", dtype=jnp.bfloat16, remat=True)[0].dtype == jnp.bfloat16


def test_parameters_are_stored_as_float32(tmp_path, micro):
    half = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), micro[1])
    save_model(tmp_path / "m", micro[0], half)
    loaded = load_model(tmp_path / "m")[1]
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, np.asarray(b, np.float32)), loaded, half)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype("float32")}


def test_saving_again_replaces_the_whole_folder(saved, micro, assert_same_tree):
    before = read_folder_config(saved)["checkpoint"]
    doubled = jax.tree.map(lambda leaf: 2 * leaf, micro[1])
    save_model(saved, micro[0], doubled)
    folder_config = read_folder_config(saved)
    assert folder_config["class_names"] is None and folder_config["checkpoint"] != before
    assert sorted(entry.name for entry in saved.iterdir()) == ["config.json", folder_config["checkpoint"]]
    assert_same_tree(load_model(saved)[1], doubled)


@pytest.mark.parametrize(("module", "name"), [(model_folder, "restore_params"), (checksums, "_files")])
def test_a_folder_that_is_saved_again_while_it_is_read(saved, micro, monkeypatch, assert_same_tree, module, name):
    doubled = jax.tree.map(lambda leaf: 2 * leaf, micro[1])
    function = getattr(module, name)

    def call_late(*arguments):
        monkeypatch.undo()
        save_model(saved, micro[0], doubled)
        return function(*arguments)

    monkeypatch.setattr(module, name, call_late)
    assert_same_tree(load_model(saved)[1], doubled)


def test_a_folder_that_another_model_replaces_while_it_is_read(saved, micro, monkeypatch, assert_same_tree):
    """The network, the parameters and the class names are all the other model's, not adapted to the first one's."""
    other = create_model(micro[0].config, num_classes=3)
    variables = random_variables(other.config)

    def restore_late(*arguments):
        monkeypatch.undo()
        save_model(saved, other, variables, class_names=["a", "b", "c"])
        return params_checkpoint.restore_params(*arguments)

    monkeypatch.setattr(model_folder, "restore_params", restore_late)
    model, loaded, folder_config = load_with_description(saved)
    assert model == other and folder_config["class_names"] == ["a", "b", "c"]
    assert_same_tree(loaded, variables)


def test_readers_of_a_folder_that_is_replaced_again_and_again(saved, micro):
    """Whatever the moment: each time one of the two models, whole."""
    read = set()

    def write(count):
        model = create_model(micro[0].config, num_classes=count)
        filled = {name: np.full(leaf.shape, count, np.float32) for name, leaf in parameter_shapes(model.config).items()}
        save_model(saved, model, {"params": unflatten(filled)}, class_names=[str(count)] * count)

    write(3)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        writer = pool.submit(lambda: [write(count) for count in [5, 3] * 6])
        while not writer.done():
            model, variables, folder_config = load_with_description(saved)
            count = model.config.num_classes
            assert all((leaf == count).all() for leaf in jax.tree.leaves(jax.device_get(variables)))
            assert folder_config["class_names"] == [str(count)] * count
            read.add(count)
        writer.result()
    assert read == {3, 5}


def test_a_path_with_the_characters_of_a_pattern(tmp_path, micro):
    for _ in range(2):
        save_model(tmp_path / "lr=[1e-3]*", *micro)
    assert len(list((tmp_path / "lr=[1e-3]*").iterdir())) == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["lr=[1e-3]*"]


@pytest.mark.parametrize("failing", ["save", "commit"])
def test_a_failure_leaves_the_old_folder(saved, micro, monkeypatch, failing, assert_same_tree):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    if failing == "save":
        monkeypatch.setattr(ocp.Checkpointer, "save", fail)
    else:
        monkeypatch.setattr(save_folder, "replace_text", fail)
    error = UserError if failing == "save" else OSError
    with pytest.raises(error, match="disk full"):
        save_model(saved, micro[0], jax.tree.map(lambda leaf: 2 * leaf, micro[1]))
    with pytest.raises(error, match="disk full"):
        save_model(saved.parent / "fresh", *micro)
    monkeypatch.undo()
    assert_same_tree(load_model(saved)[1], micro[1])
    assert [entry.name for entry in saved.parent.iterdir()] == ["m"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_is_one_sentence_and_leaves_the_old_folder(saved, micro, assert_same_tree):
    before = sorted(path.relative_to(saved) for path in saved.rglob("*"))
    other = {"params": jax.tree.map(lambda x: x + jax.random.normal(jax.random.key(0), x.shape), micro[1]["params"])}
    with full_disk(), pytest.raises(UserError, match=r"the model cannot be written to .*m \(.+\): make room"):
        save_model(saved, micro[0], other)
    assert sorted(path.relative_to(saved) for path in saved.rglob("*")) == before
    assert_same_tree(load_model(saved)[1], micro[1])


def test_writes_that_go_on_after_one_has_failed_leave_nothing(tmp_path, micro, monkeypatch):
    def write_on(folder):
        for number in range(30):
            (folder / "ocdbt.process_0").mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # It may be removed in between.
                (folder / "ocdbt.process_0" / f"{number}").touch()
            time.sleep(0.01)

    def fail(_, checkpoint, **__):
        writer = threading.Thread(target=write_on, args=(Path(f"{checkpoint}.orbax-checkpoint-tmp"),))
        writer.start()
        time.sleep(0.02)
        raise ValueError("no room")

    monkeypatch.setattr(ocp.Checkpointer, "save", fail)
    with pytest.raises(UserError, match=r"cannot be written to .* \(no room\)"):
        save_model(tmp_path / "m", *micro)
    time.sleep(0.5)
    assert not list(tmp_path.iterdir())


def test_another_folder_is_not_replaced(tmp_path, micro):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "config.json").write_text("{}")
    (tmp_path / "file").write_text("hello")
    for name in ("photos", "file"):
        with pytest.raises(UserError, match="not a model folder"):
            save_model(tmp_path / name, *micro)
    assert (tmp_path / "photos" / "config.json").read_text() == "{}"


def test_parameters_that_do_not_fit_are_not_saved(tmp_path, micro):
    flat = flatten(micro[1]["params"])
    flat["extra/kernel"] = flat.pop("norm/scale")
    flat["head/bias"] = np.zeros(3, np.float32)
    with pytest.raises(UserError) as error:
        save_model(tmp_path / "m", micro[0], {"params": unflatten(flat)})
    for part in ("1 missing: norm/scale", "1 unexpected: extra/kernel", "head/bias (3,) instead of (10,)"):
        assert part in str(error.value)
    for variables, found in (
        (micro[1]["params"], 'a dict of head, levels_0, levels_1 and 4 more: expected {"params"'),
        ({"params": 3}, "a dict of params: expected"),
        (None, "a NoneType: expected"),
        ({}, "a dict of nothing: expected"),
        ({"params": micro[1]["params"] | {"norm": {"scale": None, "bias": "x"}}}, "norm/scale NoneType instead of"),
        ({"params": micro[1]["params"] | {0: np.zeros(2)}}, "1 unexpected: 0"),
        (
            {"params": jax.tree.map(lambda leaf: leaf.astype(np.complex64), micro[1]["params"])},
            "is complex64, expected",
        ),
    ):
        with pytest.raises(UserError, match=found):
            save_model(tmp_path / "m", micro[0], variables)
    with pytest.raises(UserError, match="2 class names for a head of 10 classes"):
        save_model(tmp_path / "m", *micro, class_names=["a", "b"])
    assert not list(tmp_path.iterdir())


def _edit_config(folder, **changes):
    folder_config = json.loads((folder / "config.json").read_text())
    del folder_config["checksum"]
    (folder / "config.json").write_text(json.dumps(folder_config | changes))


def test_other_folders_are_refused(tmp_path, saved):
    (tmp_path / "empty").mkdir()
    for path, message in ((tmp_path / "absent", "no such directory"), (tmp_path / "empty", "no config.json")):
        with pytest.raises(UserError, match=message):
            load_model(path)
    text = (saved / "config.json").read_text()
    (saved / "config.json").write_text(text[:100])
    with pytest.raises(UserError, match="not JSON"):
        read_folder_config(saved)
    (saved / "config.json").write_text('{"layers": []}')
    with pytest.raises(UserError, match="not a model folder's"):
        read_folder_config(saved)
    (saved / "config.json").write_text(text)
    (saved / "config.json").write_text('{"a":' * 100_000)
    with pytest.raises(UserError, match="not JSON"):
        read_folder_config(saved)
    forged = json.loads(text)
    for changes, message in (
        ({"format_version": 99}, "format version 99"),
        ({"config": {"dim": 3}}, "describes no network"),
        ({"preprocessing": None}, "describes no network"),
        ({"checkpoint": "params-gone"}, "missing or damaged"),
        ({"checkpoint": "../m"}, "wrong class_names or checkpoint"),
        ({"class_names": ["a"]}, "wrong class_names or checkpoint"),
        ({"class_names": [*NAMES[1:], 3]}, "wrong class_names or checkpoint"),
        ({"provenance": ["here"]}, "wrong provenance"),
        (
            {"config": forged["config"] | {"embed_dim": "8"}},
            "describes no network .embed_dim must be an integer from 4",
        ),
        ({"config": forged["config"] | {"depths": [10**9] * 4}}, "depths must be an integer from 1 to 65536"),
        ({"config": forged["config"] | {"layer_scale": [1]}}, "layer_scale must be a finite number or None"),
        ({"config": forged["config"] | _SIDES_OF_A_MILLION}, "image_size must be an integer from 1 to 65536"),
        ({"preprocessing": forged["preprocessing"] | {"std": [1, 0, 1]}}, "std not 0"),
        ({"preprocessing": forged["preprocessing"] | {"image_size": [1e3, float("inf")]}}, "image_size must be an int"),
    ):
        (saved / "config.json").write_text(text)
        _edit_config(saved, **changes)
        with pytest.raises(UserError, match=message):
            load_model(saved)


def test_a_checkpoint_of_another_network_is_refused(saved):
    config = json.loads((saved / "config.json").read_text())["config"]
    _edit_config(saved, config=config | {"depths": [1, 1, 1, 1], "num_classes": 11}, class_names=None)
    with pytest.raises(UserError) as error:
        load_model(saved)
    assert "head/bias (10,) instead of (11,)" in str(error.value)
    assert "unexpected: levels_1/blocks_1/attn/proj/bias, levels_1/blocks_1/attn/proj/kernel" in str(error.value)


def test_any_flipped_byte_is_found_and_its_file_is_named(saved):
    for name, content in flips(saved, 50):
        whole = (saved / name).read_bytes()
        (saved / name).write_bytes(content)
        with pytest.raises(UserError) as error:
            load_model(saved)
        assert str(error.value).startswith(str(saved / name)), str(error.value)
        assert "\n" not in str(error.value)
        (saved / name).write_bytes(whole)
    load_model(saved)


def test_an_added_or_missing_file_is_named(saved):
    (checkpoint,) = saved.glob("params-*")
    (checkpoint / "d" / "more").touch()
    with pytest.raises(UserError, match=r"params-.*/d/more has been added: convert or train the model again"):
        load_model(saved)
    (checkpoint / "d" / "more").unlink()
    (checkpoint / "manifest.ocdbt").unlink()
    with pytest.raises(UserError, match=r"params-.*/manifest.ocdbt is missing: convert or train the model again"):
        load_model(saved)


def test_a_config_that_was_edited_by_hand_is_accepted_without_its_checksum(saved):
    path = saved / "config.json"
    text = path.read_text().replace('"class 1"', '"cat"')
    path.write_text(text)
    with pytest.raises(
        UserError, match=r"edited by hand \(its checksum is .*\): remove its entry checksum to accept it"
    ):
        load_model(saved)
    lines = text.splitlines(keepends=True)
    path.write_text("".join(line for line in lines if '"checksum"' not in line))
    load_model(saved)
    assert read_folder_config(saved)["class_names"][1] == "cat"
    path.write_text(text.replace('"checksum"', '"checkrum"'))  # As a flipped bit leaves it.
    with pytest.raises(UserError, match=r"it has the unknown entry checkrum\)"):
        load_model(saved)


def test_a_folder_of_a_version_without_checksums_is_loaded(saved, micro, assert_same_tree):
    (listed,) = saved.glob("params-*/checksums.txt")
    listed.unlink()
    _edit_config(saved)
    assert_same_tree(load_model(saved)[1], micro[1])


# TensorStore's failed reads finish after Orbax has closed its event loop.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("pattern", ["ocdbt.process_0/d/*", "manifest.ocdbt", "_METADATA"])
def test_missing_or_damaged_parameters_are_refused(saved, pattern):
    (listed,) = saved.glob("params-*/checksums.txt")
    listed.unlink()  # An earlier version's folder has none.
    for path in saved.glob(f"params-*/{pattern}"):
        path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match="is missing or damaged"):
        load_model(saved)


def test_metadata_with_another_key_are_refused(saved):
    (listed,) = saved.glob("params-*/checksums.txt")
    listed.unlink()
    (path,) = saved.glob("params-*/_METADATA")
    path.write_bytes(path.read_bytes().replace(b"value_metadata", b"value_metadat?"))
    with pytest.raises(UserError, match="is missing or damaged"):
        load_model(saved)


def test_saved_from_a_state_replicated_over_devices(tmp_path, micro, assert_same_tree):
    save_model(tmp_path / "one", *micro)
    script = """
import sys, jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from gcvit_flax.weights.model_folder import load_model, load_with_description, save_model
assert len(jax.devices()) == 2
model, variables = load_model(sys.argv[1])
everywhere = NamedSharding(Mesh(jax.devices(), "x"), PartitionSpec())
save_model(sys.argv[2], model, jax.device_put(variables, everywhere))
"""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    paths = [str(tmp_path / "one"), str(tmp_path / "two")]
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", script, *paths],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert_same_tree(load_model(tmp_path / "two")[1], micro[1])
