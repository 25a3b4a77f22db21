"""Google Cloud Storage: which paths are in it, gs://BUCKET/..., and what is wrong if it cannot be used.

It has no folders, only objects whose names begin alike, and no locks; nothing can be appended to an object, and a
rename copies every object. So what is made of several objects is complete there once the last of them is written.
"""

import contextlib
import functools
import logging
import os
import re
from collections.abc import Iterator
from typing import Any

from etils import epath

from gcvit_flax.errors import UserError

# etils would take TensorFlow, if it is installed, to reach the store, and gcsfs gRPC for buckets that have folders:
# ways that the tests do not go.
os.environ.setdefault("EPATH_USE_TF", "0")
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

# Whose errors are about the store or the way to it.
_LIBRARIES = ("aiohttp.", "gcsfs.", "google.api_core.", "google.auth.", "google.cloud.", "requests.")
_REQUEST_SECONDS = 30  # Of one request, of which gcsfs makes up to six.
_PROBE_SECONDS = 20


def is_remote(path: epath.PathLike) -> bool:
    """Whether `path` is in an object store."""
    return "://" in os.fspath(path)


def check_reachable(path: epath.PathLike) -> None:
    """Asks the bucket of a path in Cloud Storage for an object, once, so that what is wrong is found at the start.

    Raises:
      UserError: (a ValueError) another kind of store, or a bucket that is missing or cannot be reached or read.
    """
    if not is_remote(path):
        return
    bucket = _bucket(path)
    if not os.fspath(path).startswith("gs://") or not bucket:
        raise UserError(f"{path} is no path in Google Cloud Storage: give gs://BUCKET/FOLDER, or a path on disk")
    _check_bucket(bucket)


def check_described(path: epath.PathLike) -> None:
    """Asks for the bucket's description, as Orbax does when it lists or removes checkpoints: few roles may read it.

    Raises:
      UserError: (a ValueError) it cannot be read.
    """
    from google.cloud import storage

    with explained(path):
        storage.Client().get_bucket(_bucket(path), timeout=_PROBE_SECONDS, retry=_retry())


def check_on_disk(path: epath.PathLike) -> None:
    """Raises UserError if `path` is in an object store: few things can be written there."""
    if is_remote(path):
        raise UserError(f"{path} is not on a disk: write to a path on disk, and copy it with `gcloud storage cp`")


def absolute(path: epath.PathLike) -> epath.Path:
    """`path` as an absolute path, which `check_reachable` has checked."""
    check_reachable(path)
    return epath.Path(path if is_remote(path) else os.path.abspath(path))


def children(folder: epath.Path) -> list[epath.Path]:
    """What lies in `folder`: nothing if it does not exist, as a folder in an object store before its first object."""
    try:
        found = list(folder.iterdir())
    except FileNotFoundError:
        return []
    # The mark that some programs write for an empty folder is listed under the folder's own name.
    return [path for path in found if path.name != folder.name or not is_remote(folder) or path.exists()]


@contextlib.contextmanager
def explained(path: epath.PathLike) -> Iterator[None]:
    """Raises a UserError about `path` for what the store's libraries raise in the block."""
    try:
        yield
    except Exception as error:
        if not is_store_error(error):
            raise
        raise UserError(f"{path} {explain(error)}") from error


def is_store_error(error: Exception) -> bool:
    """Whether one of the libraries for object stores raised `error`."""
    return type(error).__module__.startswith(_LIBRARIES) or _is_forbidden(error)


def _is_forbidden(error: Exception) -> bool:
    return getattr(error, "code", None) == 403 or (type(error) is OSError and str(error).startswith("Forbidden: "))


def _bucket(path: epath.PathLike) -> str:
    return os.fspath(path).partition("://")[2].split("/")[0]


def _retry() -> Any:
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_timeout(_PROBE_SECONDS)


@functools.cache
def _check_bucket(bucket: str) -> None:
    try:
        import gcsfs  # noqa: F401
        from google.cloud import storage
    except ModuleNotFoundError as error:
        raise UserError(f'gs:// needs {error.name}, which is not installed: pip install ".[gcs]" brings it') from error
    _configure()
    with explained(f"gs://{bucket}"):
        objects = storage.Client().list_blobs(bucket, max_results=1, timeout=_PROBE_SECONDS, retry=_retry())
        next(iter(objects), None)


def _configure() -> None:
    from fsspec.config import conf

    # Listings are kept for ever otherwise, though other processes and TensorStore write to the same folder.
    ours = {"use_listings_cache": False, "requests_timeout": _REQUEST_SECONDS}
    conf["gcs"] = ours | conf.get("gcs", {})
    for name in ("gcsfs", "google.auth", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # They log what they also raise, with tracebacks.


def explain(error: Exception) -> str:
    """What `error` means and what to do, for the end of a sentence that begins with what was to be used."""
    error = getattr(error, "cause", None) or error  # Of a timeout: the last error that was tried again.
    code = getattr(error, "code", None)
    *_, reason = str(error).strip().splitlines() or [type(error).__name__]
    reason = re.sub(r"^\d+ [A-Z]+ \S+: ", "", reason)  # Without the request's address.
    if code == 404:
        return "does not exist: correct the name, or make the bucket with `gcloud storage buckets create`"
    if code == 401 or (type(error).__module__ == "google.auth.exceptions" and type(error).__name__ != "TransportError"):
        return (
            f"needs credentials ({reason}): run `gcloud auth application-default login`, or let "
            "GOOGLE_APPLICATION_CREDENTIALS name a key file"
        )
    if _is_forbidden(error):
        return f"may not be used ({reason}): get the right to read and write the bucket and its objects"
    return f"cannot be reached ({reason}): check the network, and run the same command again"
