import re
import shutil
import zipfile

import h5py
import numpy as np
import pytest

from gcvit_flax.weights.convert import convert
from gcvit_flax.weights.model_folder import load_model


@pytest.mark.parametrize("name", ["micro.gcvit_tf.weights.h5", "micro.gcvit_tf_keras2.h5"])
@pytest.mark.parametrize("keep", [0.001, 0.5, 0.999])
def test_truncated(tmp_path, files, rejects, name, keep):
    content = (files / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * keep)])
    assert "truncated or damaged HDF5" in rejects(tmp_path / name)


def test_hdf5_that_reads_other_files(tmp_path, files, rejects):
    """The other file holds the right values, so following the link would succeed."""
    source, dataset = tmp_path / "forged.weights.h5", "head/vars/0"
    with h5py.File(files / "micro.gcvit_tf.weights.h5") as file:
        values = file[dataset][()]
    (tmp_path / "other.raw").write_bytes(values.tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = values

    def forge(make):
        shutil.copy(files / "micro.gcvit_tf.weights.h5", source)
        with h5py.File(source, "a") as file:
            del file[dataset]
            make(file)

    def external_link(file):
        file[dataset] = h5py.ExternalLink(str(tmp_path / "other.h5"), "secret")

    def soft_link(file):
        file[dataset] = h5py.SoftLink("/head/vars/1")

    def external_storage(file):
        where = [(str(tmp_path / "other.raw"), 0, values.nbytes)]
        file.create_dataset(dataset, values.shape, values.dtype, external=where)

    def virtual(file):
        layout = h5py.VirtualLayout(values.shape, values.dtype)
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "secret", values.shape)
        file.create_virtual_dataset(dataset, layout)

    for make, problem in (
        (external_link, "is a link, possibly to another file"),
        (soft_link, "is a link"),
        (external_storage, "in another file"),
        (virtual, "in another file"),
    ):
        forge(make)
        assert problem in rejects(source)


def test_hdf5_that_contains_itself(tmp_path, rejects):
    with h5py.File(tmp_path / "loop.weights.h5", "w") as file:
        file.create_group("layers")["again"] = file["/"]
    assert "in the file twice" in rejects(tmp_path / "loop.weights.h5")


def test_a_huge_declared_shape(tmp_path, files, rejects):
    for options in ({}, {"chunks": (64, 1024)}):
        source = tmp_path / "huge.weights.h5"
        shutil.copy(files / "micro.gcvit_tf.weights.h5", source)
        with h5py.File(source, "a") as file:
            del file["head/vars/0"], file["head/vars/1"]
            file.create_dataset("head/vars/0", (64, 1 << 40), np.float32, **options)
            file["head/vars/1"] = np.zeros(10, np.float32)
        assert "declares 281,474,97" in rejects(source)


def _forge(files, source, name, change):
    """A Keras 3 file at `source`, of whose dataset `name` only what `change(file, name)` makes is left."""
    shutil.copy(files / "micro.gcvit_tf.weights.h5", source)
    with h5py.File(source, "a") as file:
        del file[name]
        change(file, name)
    return source


@pytest.mark.parametrize("written", [0, 32])
@pytest.mark.parametrize(
    "options",
    [{"chunks": None}, {"chunks": (8, 10)}, {"chunks": (8, 10), "compression": "gzip", "fillvalue": 0.5}],
    ids=["whole", "in chunks", "compressed"],
)
def test_values_that_were_never_written(tmp_path, files, rejects, options, written):
    def change(file, name):
        values = file.create_dataset(name, (64, 10), np.float32, **options)
        if written and options["chunks"]:  # An array that is stored whole is also allocated whole.
            values[:written] = 1

    source = _forge(files, tmp_path / "hollow.weights.h5", "head/vars/0", change)
    assert "head/vars/0 declares (64, 10) but holds no such values" in rejects(source)


def test_values_in_compressed_chunks_are_read(tmp_path, files, assert_same_tree):
    with h5py.File(files / "micro.gcvit_tf.weights.h5") as file:
        values = file["head/vars/0"][()]
    source = _forge(
        files,
        tmp_path / "chunks.weights.h5",
        "head/vars/0",
        lambda file, name: file.create_dataset(name, data=values, chunks=(7, 3), compression="gzip"),
    )
    for path, folder in ((source, "chunks"), (files / "micro.gcvit_tf.weights.h5", "plain")):
        convert(path, tmp_path / folder)
    assert_same_tree(load_model(tmp_path / "chunks")[1], load_model(tmp_path / "plain")[1])


def test_a_chunk_far_larger_than_the_file(tmp_path, files, rejects):
    """Reading its few values would take the memory of all of it."""

    def change(file, name):
        options = {"chunks": (4096, 4096), "maxshape": (None, None), "compression": "gzip"}
        file.create_dataset(name, data=np.ones((64, 10), np.float32), **options)

    source = _forge(files, tmp_path / "x.weights.h5", "head/vars/0", change)
    assert "head/vars/0 declares chunks of 67,108,864 bytes" in rejects(source)


def test_a_dataset_without_values(tmp_path, files, rejects):
    def change(file, name):
        file[name] = h5py.Empty("f4")

    assert "head/vars/1 is a dataset without values" in rejects(
        _forge(files, tmp_path / "x.weights.h5", "head/vars/1", change)
    )


def test_an_attribute_that_is_no_name_of_a_type(tmp_path, files, rejects):
    def change(file, name):
        file[name] = np.zeros(10, "V2")
        file[name].attrs["dtype"] = np.array([b"bfloat16", b"float32"])

    assert "head/vars/1 is |V2" in rejects(_forge(files, tmp_path / "x.weights.h5", "head/vars/1", change))


def test_a_missing_keras_2_weight(tmp_path, files, rejects):
    shutil.copy(files / "micro.gcvit_tf_keras2.h5", tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "a") as file:
        names = []
        file.visititems(lambda name, item: names.append(name) if "levels_0/blocks_1/norm1/gamma" in name else None)
        del file[names[0]]
    assert "1 missing: levels.0.blocks.1.norm1.weight;" in rejects(tmp_path / "x.h5")


def test_a_missing_keras_layer(tmp_path, files, rejects):
    shutil.copy(files / "micro.gcvit_tf.weights.h5", tmp_path / "x.weights.h5")
    with h5py.File(tmp_path / "x.weights.h5", "a") as file:
        del file["layers/gc_vi_t_level_1/blocks/gc_vi_t_block"]
    assert "lack a number of gc_vi_t_block" in rejects(tmp_path / "x.weights.h5")


def test_a_keras_file_whose_settings_are_not_ours(tmp_path, files, rejects):
    with zipfile.ZipFile(files / "micro.gcvit_tf.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def forge(old, new):
        with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content.replace(old, new) if name == "config.json" else content)
        return tmp_path / "x.keras"

    assert "global_pool='max'" in rejects(forge(b'"global_pool": "avg"', b'"global_pool": "max"'))
    assert "damaged" in rejects(forge(b'"global_pool"', b"'"))
    assert "drop_path_rate must be" in rejects(forge(b'"path_drop": 0.2', b'"path_drop": 7'))


def test_a_network_inside_another_model_with_its_optimizer(tmp_path, files, assert_same_tree):
    shutil.copy(files / "micro.gcvit_tf.weights.h5", tmp_path / "w.weights.h5")
    with h5py.File(tmp_path / "w.weights.h5", "a") as file:
        for name in list(file):
            file.copy(name, f"layers2/gc_vi_t/{name}")
            del file[name]
        file.move("layers2", "layers")
        file["optimizer/vars/0"] = np.int64(3)
        file["layers/gc_vi_t/optimizer/vars/1"] = np.zeros((8, 8), np.float32)
    report = convert(tmp_path / "w.weights.h5", tmp_path / "w")
    assert report.skipped == 2
    convert(files / "micro.gcvit_tf.weights.h5", tmp_path / "plain")
    assert_same_tree(load_model(tmp_path / "w")[1], load_model(tmp_path / "plain")[1])


def test_keras_2_names_with_slashes(tmp_path, files, assert_same_tree):
    source = files / "micro.gcvit_tf_keras2.h5"
    with h5py.File(source) as old, h5py.File(tmp_path / "slashes.h5", "w") as new:
        new.attrs["layer_names"] = old.attrs["layer_names"]

        def copy(name, item):
            if hasattr(item, "shape"):
                new["model_weights/" + _slashes(name)] = item[()]

        old.visititems(copy)
        new["optimizer_weights/Adam/m/head/kernel:0"] = np.zeros(3, np.float32)
    assert convert(tmp_path / "slashes.h5", tmp_path / "slashes").skipped == 1
    convert(source, tmp_path / "plain")
    assert_same_tree(load_model(tmp_path / "slashes")[1], load_model(tmp_path / "plain")[1])


def _slashes(name):
    return re.sub(r"(levels|blocks|to_q_global|conv|fc)_(\d)", r"\1/\2", name)
