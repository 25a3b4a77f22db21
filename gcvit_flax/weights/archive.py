"""Untrusted zip archives, the container of .keras and PyTorch files."""

import contextlib
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from gcvit_flax.errors import UserError, summarize_error
from gcvit_flax.weights.tensors import MOST_UNPACKED

# What zipfile raises for a damaged archive, a place before its start, an encrypted member or an unknown compression.
BAD_ZIP = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, RuntimeError)


@contextlib.contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip archive whose members all have paths inside it and unpack to at most MOST_UNPACKED times its size.

    Raises:
      UserError: the archive is damaged or breaks these rules.
    """
    try:
        archive = zipfile.ZipFile(path)
    except BAD_ZIP as error:
        raise UserError(
            f"{path} is a truncated or damaged zip archive ({summarize_error(error)}): fetch it again"
        ) from None
    with archive:
        for name in archive.namelist():
            member = PurePosixPath(name)
            if member.is_absolute() or ".." in member.parts or "\\" in name or ":" in name:
                raise UserError(f"{path} holds a member {name!r}, which points outside: refused as forged")
        unpacked = sum(info.file_size for info in archive.infolist())
        if unpacked > MOST_UNPACKED * path.stat().st_size:
            raise UserError(
                f"{path} unpacks to {unpacked:,} bytes, over {MOST_UNPACKED} times its size: refused as forged"
            )
        yield archive
