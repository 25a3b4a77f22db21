"""Zip archives from anywhere: the container of .keras files and of PyTorch's."""

import contextlib
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from gcvit_flax.errors import UserError

# What a damaged archive, or an encrypted or unknown kind of member, makes zipfile raise.
BAD_ZIP = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, RuntimeError, NotImplementedError)


@contextlib.contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip archive whose members all lie inside it and unpack to no more than four times its size.

    Raises:
      UserError: a damaged archive, or one that breaks these rules.
    """
    try:
        archive = zipfile.ZipFile(path)
    except BAD_ZIP as error:
        raise UserError(f"{path} is a truncated or damaged zip archive ({error}): fetch it again") from None
    with archive:
        for name in archive.namelist():
            member = PurePosixPath(name)
            if member.is_absolute() or ".." in member.parts or "\\" in name or ":" in name:
                raise UserError(f"{path} holds a member {name!r}, which points outside: the file is forged, refused")
        unpacked = sum(info.file_size for info in archive.infolist())
        if unpacked > 4 * path.stat().st_size:
            raise UserError(
                f"{path} unpacks to {unpacked:,} bytes, over four times its size: the file is forged, refused"
            )
        yield archive
