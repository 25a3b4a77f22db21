"""Files and folders that are never seen half written: written beside their place, then renamed into it."""

import contextlib
from collections.abc import Iterator

from etils import epath


@contextlib.contextmanager
def replacing_file(path: epath.PathLike) -> Iterator[epath.Path]:
    """A path beside `path` to write a file to, which takes its name where the block ends without an error.

    A crash leaves the old file or the new one, whole; the draft of a failed block is removed.
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
    with replacing_file(path) as draft:
        draft.write_bytes(content)


def replace_text(path: epath.PathLike, text: str) -> None:
    """Writes `text` to `path` as `replacing_file` does."""
    replace_bytes(path, text.encode())


@contextlib.contextmanager
def replacing_folder(path: epath.PathLike) -> Iterator[epath.Path]:
    """A new folder beside `path` to fill, which takes its place where the block ends without an error.

    An earlier folder is moved aside and then removed. Nothing is left of a block that fails.
    """
    path = epath.Path(path)
    draft, earlier = (path.with_name(f".{path.name}.{state}") for state in ("partial", "earlier"))
    # What a process that was killed has left.
    draft.rmtree(missing_ok=True)
    if earlier.exists() and not path.exists():
        earlier.rename(path)
    earlier.rmtree(missing_ok=True)
    try:
        draft.mkdir(parents=True)
        yield draft
        if path.exists():
            path.rename(earlier)
        draft.rename(path)
        earlier.rmtree(missing_ok=True)
    except BaseException:
        draft.rmtree(missing_ok=True)
        raise
