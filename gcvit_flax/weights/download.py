"""Downloads of weights into a cache: with a progress bar, resumed after an interruption, and verified."""

import contextlib
import fcntl
import hashlib
import http.client
import logging
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from gcvit_flax.errors import UserError
from gcvit_flax.weights.published import PUBLISHED, Published, find_published

logger = logging.getLogger("gcvit_flax")

_CHUNK = 1 << 20
_TIMEOUT = 30  # Seconds without data.
_LONGEST_NAME = 200  # Characters; file systems have 255, for the endings of drafts too.


def fetch(source: str | os.PathLike[str]) -> Path:
    """The local file that `source` names: a path, or an http(s) URL or published name, which is downloaded once.

    Raises:
      UserError: `source` is none of these, or a download fails or does not verify.
    """
    source = os.fspath(source)
    with contextlib.suppress(OSError):  # A URL may be too long for a path.
        if Path(source).exists():
            return Path(source)
    published = find_published(source)
    if published is None and source.startswith(("http://", "https://")):
        _check_address(source)
        published = Published(source)
    if published is None:
        names = ", ".join(PUBLISHED)
        raise UserError(f"{source} is not there: expected a file, an http(s) URL or one of the names {names}")
    return download(published, cache_folder())


def _check_address(url: str) -> None:
    try:
        parts = urllib.parse.urlsplit(url)
        problem = None if parts.hostname and parts.port != 0 else "it has no host or port"
        if not all("!" <= character <= "~" for character in url):
            problem = "it has characters that must be written as %XX"
    except ValueError as error:
        problem = str(error)
    if problem:
        raise UserError(f"{url!r} is no address ({problem}): expected http(s)://HOST/PATH/FILE; correct it")


def is_published(source: str | os.PathLike[str], path: Path) -> bool:
    """Whether `source`, a name or URL, or the size of its file `path` is in the table of published files."""
    size = path.stat().st_size
    return find_published(os.fspath(source)) is not None or any(size == entry.size for entry in PUBLISHED.values())


def origin(source: str | os.PathLike[str], path: Path) -> str:
    """The origin of `path`, which `fetch` gave for `source`, for others: a URL, or a local file's name alone."""
    source = os.fspath(source)
    if path == Path(source):
        return path.name
    published = find_published(source)
    return published.url if published else source


def cache_folder() -> Path:
    """The folder of downloads: gcvit_flax in $XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gcvit_flax"


def download(published: Published, folder: Path) -> Path:
    """The file at `published.url`, in `folder`, downloaded unless it is there.

    An interrupted download is resumed if the server still has the same file; one that another process has started is
    waited for. A file gets its final name once its length, and its known size and digest, are right.

    Raises:
      UserError: the server cannot be reached, does not answer with the file or sends too little of it, or the file is
        not the known one.
    """
    target = place(published, folder)
    if not target.exists():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{target.parent} cannot be made ({error.strerror or error}): let XDG_CACHE_HOME name another folder"
            ) from None
        with locked(target.parent, published.url):
            if not target.exists():  # Another process may have downloaded it meanwhile.
                _download(published, target)
    return target


def place(published: Published, folder: Path) -> Path:
    """Where in `folder` the file at `published.url` is kept."""
    # Files at several URLs may share a name, and some have one that no file can have.
    name = published.url.rsplit("/", 1)[-1][-_LONGEST_NAME:]
    name = "weights" if name in ("", ".", "..") else name
    return folder / hashlib.sha256(published.url.encode()).hexdigest()[:8] / name


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(folder: Path, url: str) -> Iterator[None]:
    """Locks `folder` for this process: two that write the same draft would overwrite each other's."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("another process is fetching %s: waiting for it", url)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:  # Some network file systems have no locks.
            pass
        yield
    finally:
        os.close(descriptor)


def _download(published: Published, target: Path) -> None:
    partial = target.with_name(f"{target.name}.partial")
    try:
        total = _transfer(published.url, partial)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # Nothing is left to resume.
            partial.unlink()
            _download(published, target)
            return
        raise UserError(f"{published.url} answered {error.code} {error.reason}: check the address") from None
    except urllib.error.URLError as error:
        advice = "check the network, or download it elsewhere and convert the file"
        raise UserError(f"{published.url} cannot be reached ({error.reason}): {advice}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError of what the server's headers say.
        raise UserError(f"{published.url} stopped ({error or type(error).__name__}): run again to resume") from None
    size = partial.stat().st_size
    if total is not None and size < total:
        raise UserError(f"{published.url} stopped after {size:,} of {total:,} bytes: run again to resume")
    _verify(partial, published, total)
    partial.replace(target)
    _tag_file(partial).unlink(missing_ok=True)


def _transfer(url: str, partial: Path) -> int | None:
    """Downloads into `partial`, after its present content if the server agrees; returns the full length, if stated."""
    start, tag = (partial.stat().st_size if partial.exists() else 0), _tag_file(partial)
    request = urllib.request.Request(url, headers={"User-Agent": "gcvit_flax"})
    if start and tag.exists():
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", tag.read_text())  # The whole file if it has changed since.
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
        resumed = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        if resumed and not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise http.client.HTTPException("the server sent another part than was asked for")
        start = start if resumed else 0
        length = answer.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        if validator and not validator.startswith("W/"):
            tag.write_text(validator)
        else:
            tag.unlink(missing_ok=True)
        bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=url.rsplit("/", 1)[-1])
        with bar, partial.open("ab" if resumed else "wb") as file:
            # If the connection breaks, read1 returns the bytes that have arrived; read would drop them.
            while chunk := answer.read1(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    return total


def _verify(partial: Path, published: Published, total: int | None) -> None:
    size, digest = partial.stat().st_size, sha256(partial)
    expected = published.size or total
    if expected is not None and size != expected:
        problem = f"has {size:,} bytes, expected {expected:,}"
    elif not digest.startswith(published.sha256):
        problem = f"has SHA-256 {digest}, expected {published.sha256}..."
    else:
        return
    partial.unlink()
    _tag_file(partial).unlink(missing_ok=True)
    raise UserError(f"{published.url} {problem}: it is not the published file, run again or fetch it by hand")


def _tag_file(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.etag")
