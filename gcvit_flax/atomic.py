"""Files and folders that are never seen half written: on disk, written beside their place, then renamed into it.

One process at a time may write to a path: drafts have fixed names, so that those of a killed process are found.
"""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from gcvit_flax.errors import UserError
from gcvit_flax.storage import is_remote

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # From Linux's fcntl.h.


def check_replaceable(path: Path, what: str) -> None:
    """Raises UserError unless a file on disk can be written at `path`: to be called before the computation."""
    taken = path.is_dir() or (path.exists() and not os.access(path, os.W_OK))
    if taken or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"{path} cannot be written: name {what} in a folder that exists and that you may write to")


@contextlib.contextmanager
def replacing_file(path: epath.PathLike) -> Iterator[epath.Path]:
    """A path beside `path` to write a file to, which is renamed to `path` if the block ends without an error.

    A crash leaves the old file or the new one, whole; the draft of a block that fails is removed.
    """
    path = epath.Path(path)
    draft = path.with_name(f"{path.name}.partial")
    try:
        yield draft
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def replace_bytes(path: epath.PathLike, content: bytes) -> None:
    """Writes `content` to `path` as `replacing_file` does."""
    if is_remote(path):
        epath.Path(path).write_bytes(content)  # An object appears whole or not at all.
        return
    with replacing_file(path) as draft:
        draft.write_bytes(content)


def replace_text(path: epath.PathLike, text: str) -> None:
    """Writes `text` to `path` as `replacing_file` does."""
    replace_bytes(path, text.encode())


@contextlib.contextmanager
def replacing_folder(path: epath.PathLike) -> Iterator[epath.Path]:
    """A new folder beside `path` to fill, which is renamed to `path` if the block ends without an error.

    An earlier folder stays until it is exchanged with the new one, in one step on Linux's own file systems (ext4, xfs,
    btrfs, tmpfs); elsewhere it is moved aside first, and for a moment nothing is at `path`. A reader that opens one
    file before and another after that has one of each folder. Of a block that fails nothing is left. A link stays, and
    the folder it points to is replaced. In an object store, `path` itself is filled: it must be new, and is complete
    once the object is there that the block writes last.

    Raises:
      FileExistsError: (an OSError) `path` was free at first, and something else has been put there since.
    """
    if is_remote(path):
        with _removed_on_error(epath.Path(path)) as folder:
            yield folder
        return
    path = epath.Path(os.path.realpath(path))
    draft, earlier = (path.with_name(f".{path.name}.{state}") for state in ("partial", "earlier"))
    _move_back(earlier, path)  # A process that was killed may have left both.
    draft.rmtree(missing_ok=True)
    replaced = path.exists()
    try:
        draft.mkdir(parents=True)
        yield draft
        if not (replaced and _exchange(draft, path)):
            if replaced:
                with contextlib.suppress(FileNotFoundError):  # It may have been removed since.
                    path.rename(earlier)
            draft.rename(path)
    except BaseException:
        _move_back(earlier, path)
        draft.rmtree(missing_ok=True)
        raise
    for other in (draft, earlier):  # Whichever the earlier folder now is.
        other.rmtree(missing_ok=True)


def _exchange(first: epath.Path, second: epath.Path) -> bool:
    """Gives each of two folders the other's name in one step; False, and nothing done, where that is not possible."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except AttributeError:  # Another system than Linux, or an old C library.
        return False
    return rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0


@contextlib.contextmanager
def _removed_on_error(folder: epath.Path) -> Iterator[epath.Path]:
    try:
        yield folder
    except BaseException:
        folder.rmtree(missing_ok=True)
        raise


def _move_back(earlier: epath.Path, path: epath.Path) -> None:
    """Restores the folder that was moved aside, or removes it if another has taken its place."""
    if not earlier.exists():
        return
    if path.exists():
        earlier.rmtree(missing_ok=True)
    else:
        earlier.rename(path)
