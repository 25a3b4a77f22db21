"""What can be tested of Cloud Storage without a server: tests/gcs has the rest."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gcvit_flax import storage
from gcvit_flax.errors import summarize_error


def test_paths_on_disk_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert os.fspath(storage.absolute("a/../b")) == str(tmp_path / "b")
    assert not storage.is_remote(Path("a/b")) and storage.is_remote("gs://bucket/a")


@pytest.mark.parametrize("path", ["s3://bucket/run", "file:///tmp/run", "gs:///run"])
def test_of_stores_there_is_one(path):
    with pytest.raises(ValueError, match=r"is no path in Google Cloud Storage: give gs://BUCKET/FOLDER"):
        storage.absolute(path)


def test_a_missing_extra_is_named():
    blocked = "import sys; sys.modules['gcsfs'] = None; from gcvit_flax.weights.model_folder import load_model\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{blocked}load_model('gs://bucket/model')"], capture_output=True, text=True
    )
    expected = 'gs:// needs gcsfs, which is not installed: pip install ".[gcs]" brings it'
    assert done.stderr.splitlines()[-1] == f"gcvit_flax.errors.UserError: {expected}"


def test_what_is_there_and_what_is_not(tmp_path):
    (tmp_path / tmp_path.name).touch()
    folder = storage.epath.Path(tmp_path)
    assert storage.children(folder) == [folder / tmp_path.name]
    assert storage.children(folder / "none") == []


def test_tensorstores_errors_are_cut_to_what_they_say():
    error = ValueError("NOT_FOUND: no such object [source locations='a.cc:1'] [tensorstore_spec='{}']\nmore")
    assert summarize_error(error) == "NOT_FOUND: no such object"
