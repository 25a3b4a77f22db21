"""A large read-only array that worker processes share."""

import contextlib
import os
import tempfile
import weakref

import numpy as np

from gcvit_flax.errors import UserError


class SharedArray:
    """A read-only array, pickled as the name of a temporary file that every process maps.

    The file is written when the array is first pickled, and removed when the array goes or the process that wrote it
    ends, unless it is killed. It is no shared memory of the system's, of which containers have little.

    Raises:
      UserError: (from pickling) the file cannot be written.
    """

    def __init__(self, array: np.ndarray):
        self.array = array
        self._file = ""

    def __reduce__(self) -> tuple:
        if not os.path.exists(self._file):
            self._file = _write(self.array)
            weakref.finalize(self, _remove, self._file)
        return _map, (self._file,)


def _write(array: np.ndarray) -> str:
    """The path of a new temporary file with `array`."""
    try:
        handle, path = tempfile.mkstemp(prefix="gcvit_flax_", suffix=".npy")
        try:
            with open(handle, "wb") as file:
                np.save(file, array)
        except OSError:
            os.unlink(path)
            raise
        return path
    except OSError as error:
        raise UserError(
            f"{array.nbytes / 1e6:.0f} MB of file names for worker processes cannot be written to "
            f"{tempfile.gettempdir()} ({error}): free some space there, or set TMPDIR to another folder"
        ) from error


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # Temporary folders are tidied by others too.
        os.unlink(path)


def _map(path: str) -> SharedArray:
    shared = SharedArray(np.asarray(np.load(path, mmap_mode="r")))  # Plain arrays are indexed faster than memmaps.
    shared._file = path
    return shared
