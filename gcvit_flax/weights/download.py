"""Weights from the network into a cache: with a progress bar, resumed where they stopped, verified, never truncated."""

import contextlib
import hashlib
import http
import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from gcvit_flax.errors import UserError
from gcvit_flax.weights.published import PUBLISHED, Published

_CHUNK = 1 << 20
_TIMEOUT = 30  # Seconds without a byte.


def fetch(source: str | os.PathLike) -> Path:
    """The local file that `source` means: a path, or an http(s) URL or published name, downloaded if it must be.

    Raises:
      UserError: a download that fails or does not verify, or something that is none of these.
    """
    source = os.fspath(source)
    published = Published(source) if _is_url(source) else PUBLISHED.get(source)
    if published is not None and not Path(source).exists():
        return download(published, cache_folder())
    if not Path(source).exists():
        names = ", ".join(PUBLISHED)
        raise UserError(f"{source} is not there: expected a file, an http(s) URL or one of the names {names}")
    return Path(source)


def is_published(source: str | os.PathLike, path: Path) -> bool:
    """Whether `source`, a name or address, or the size of the file at `path` is in the table of published files."""
    source, size = os.fspath(source), path.stat().st_size
    return source in PUBLISHED or any(source == entry.url or size == entry.size for entry in PUBLISHED.values())


def origin(source: str | os.PathLike) -> str:
    """What to call `source` for others: its address, or the name of a local file without its folders."""
    source = os.fspath(source)
    if Path(source).exists():
        return Path(source).name
    return PUBLISHED[source].url if source in PUBLISHED else source


def cache_folder() -> Path:
    """Where downloads stay: gcvit_flax under $XDG_CACHE_HOME, or under ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gcvit_flax"


def download(published: Published, folder: Path) -> Path:
    """The file at `published.url`, in `folder`; one that is complete there already is not fetched again.

    What an interruption left is resumed if the server still has the same file. A file gets its name only once its
    length, and its known size and digest, are right.

    Raises:
      UserError: no connection, an answer other than the file, too few bytes, or another file than the known one.
    """
    # Files of several addresses may share a name.
    target = folder / hashlib.sha256(published.url.encode()).hexdigest()[:8] / published.url.rsplit("/", 1)[-1]
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")
    try:
        total = _transfer(published.url, partial)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # Nothing is left to resume.
            partial.unlink()
            return download(published, folder)
        raise UserError(f"{published.url} answered {error.code} {error.reason}: check the address") from None
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"{published.url} stopped ({error or type(error).__name__}): run again to resume") from None
    size = partial.stat().st_size
    if total is not None and size < total:
        raise UserError(f"{published.url} stopped after {size:,} of {total:,} bytes: run again to resume")
    _verify(partial, published, total)
    partial.replace(target)
    _tag_file(partial).unlink(missing_ok=True)
    return target


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _transfer(url: str, partial: Path) -> int | None:
    """Fetches into `partial`, behind what is there if the server agrees; returns the length it should get, if told."""
    start, tag = (partial.stat().st_size if partial.exists() else 0), _tag_file(partial)
    request = urllib.request.Request(url, headers={"User-Agent": "gcvit_flax"})
    if start and tag.exists():
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", tag.read_text())  # Whole again if the file has changed since.
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
            # read1 gives what has arrived before a connection breaks, which read would drop.
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
    with contextlib.suppress(FileNotFoundError):
        _tag_file(partial).unlink()
    raise UserError(f"{published.url} {problem}: it is not the published file, run again or fetch it by hand")


def _tag_file(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.etag")


def _is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))
