"""Arrays that are pickled as the name of a temporary file."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from gcvit_flax.data.shared_array import SharedArray
from gcvit_flax.errors import UserError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where temporary files are written."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_every_process_maps_the_same_file_which_goes_with_the_array(folder):
    shared = SharedArray(np.arange(100_000))
    assert not [*folder.iterdir()], "without worker processes nothing is written"
    pickled = [pickle.dumps(shared) for _ in range(3)]
    assert len({*pickled}) == 1 and len(pickled[0]) < 500
    received = pickle.loads(pickled[0])
    np.testing.assert_array_equal(received.array, shared.array)
    assert isinstance(received.array.base, np.memmap) and not received.array.flags.writeable
    assert pickle.dumps(received) == pickled[0]
    assert len([*folder.iterdir()]) == 1
    del shared
    assert not [*folder.iterdir()]
    np.testing.assert_array_equal(received.array, np.arange(100_000))


def test_a_file_that_was_tidied_away_is_written_again(folder):
    shared = SharedArray(np.arange(3))
    pickle.dumps(shared)
    for path in folder.iterdir():
        path.unlink()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(shared)).array, shared.array)


def test_the_file_goes_with_its_process(folder, environment):
    program = """
import os, pickle, tempfile, numpy as np
from gcvit_flax.data.shared_array import SharedArray
shared = SharedArray(np.arange(3))
pickle.dumps(shared)
print(len(os.listdir(tempfile.gettempdir())))
"""
    variables = {**environment, "TMPDIR": str(folder)}
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n" and not [*folder.iterdir()]


def test_a_full_disk_is_one_sentence(folder, monkeypatch):
    def fill(file, array):
        file.write(b"begun")
        raise OSError("24 requested and 7 written")

    monkeypatch.setattr(np, "save", fill)
    with pytest.raises(UserError, match=rf"cannot be written to {folder} \(24 requested and 7 written\): free some"):
        pickle.dumps(SharedArray(np.arange(3)))
    assert not [*folder.iterdir()]
