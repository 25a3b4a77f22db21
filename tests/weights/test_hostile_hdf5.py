"""Damaged and forged HDF5 files: one sentence, exit status 1, nothing written."""

import shutil
import zipfile

import h5py
import numpy as np


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


def test_values_that_were_never_written(tmp_path, files, rejects):
    source = tmp_path / "hollow.weights.h5"
    shutil.copy(files / "micro.gcvit_tf.weights.h5", source)
    with h5py.File(source, "a") as file:
        del file["head/vars/0"]
        file.create_dataset("head/vars/0", (64, 10), np.float32)
    assert "holds no such values" in rejects(source)


def test_a_missing_keras_layer(tmp_path, files, rejects):
    shutil.copy(files / "micro.gcvit_tf.weights.h5", tmp_path / "x.weights.h5")
    with h5py.File(tmp_path / "x.weights.h5", "a") as file:
        del file["layers/gc_vi_t_level_1/blocks/gc_vi_t_block"]
    assert "skip a number of gc_vi_t_block" in rejects(tmp_path / "x.weights.h5")


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
