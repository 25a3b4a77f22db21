"""Checksums of all files of a folder, in a file beside them: damage to any byte is found, and the file is named.

checksums.txt has a line per file, CRC-32 and path, and a last line with the CRC-32 of those before it.
"""

import errno
import time
import zlib
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

from etils import epath

from gcvit_flax.atomic import replace_text
from gcvit_flax.storage import children

CHECKSUMS_NAME = "checksums.txt"
_OURS = (CHECKSUMS_NAME, f"{CHECKSUMS_NAME}.partial")
_CHUNK = 1 << 20  # Bytes read at a time.
_PAUSES = (1.0, 5.0, 0.0)  # Seconds after each attempt to read a file that has an input/output error.


def checksum(content: bytes) -> str:
    """The CRC-32 of `content` as eight hexadecimal digits."""
    return f"{zlib.crc32(content):08x}"


def write_checksums(folder: epath.Path, leaving_out: Collection[str] = ()) -> None:
    """Writes the checksums of all files in `folder` but those in `leaving_out`."""
    _write(folder, _checksums(folder, [name for name in _files(folder) if name not in leaving_out]))


def add_checksums(folder: epath.Path, names: Collection[str]) -> None:
    """Adds those of `names` that are there to the checksums of `folder`, if it has any; what is listed stays."""
    listed = _read(folder)
    if listed:
        new = [name for name in names if name not in listed and (folder / name).exists()]
        _write(folder, listed | _checksums(folder, new))


def _write(folder: epath.Path, listed: Mapping[str, str]) -> None:
    lines = "".join(f"{value} {name}\n" for name, value in sorted(listed.items()))
    replace_text(folder / CHECKSUMS_NAME, f"{lines}{checksum(lines.encode())}\n")


def find_damage(folder: epath.Path, may_be_unlisted: Collection[str] = ()) -> str | None:
    """Which file of `folder` is changed, missing or added, as "PATH is damaged"; None if all are whole.

    A folder without checksums, such as one of an earlier version, counts as whole.
    """
    listed = _read(folder)
    if listed is None:
        return None
    if not listed:
        return f"{folder / CHECKSUMS_NAME} is damaged"
    found = set(_files(folder))
    for name in sorted(listed.keys() - found):
        return f"{folder / name} is missing"
    # Hidden files are those of file systems and copying programs.
    added = {name for name in found if not name.rpartition("/")[2].startswith(".")}
    for name in sorted(added - listed.keys() - {*may_be_unlisted}):
        return f"{folder / name} has been added"
    return _find_change(folder, listed)


def find_change_outside(folder: epath.Path, part: str) -> str | None:
    """Like `find_damage`, but only for changes, and without reading the files of the subfolder `part`."""
    listed = _read(folder) or {}
    return _find_change(folder, {name: value for name, value in listed.items() if not name.startswith(f"{part}/")})


def _find_change(folder: epath.Path, listed: Mapping[str, str]) -> str | None:
    there = [name for name in listed if (folder / name).exists()]
    for name, value in _checksums(folder, there).items():
        if value != listed[name]:
            return f"{folder / name} is damaged"
    return None


def _read(folder: epath.Path) -> dict[str, str] | None:
    """File name -> checksum; None without checksums, empty if they are damaged themselves."""
    try:
        content = (folder / CHECKSUMS_NAME).read_bytes()
    except FileNotFoundError:
        return None
    lines, own = content[:-9], content[-9:]
    if own != f"{checksum(lines)}\n".encode():
        return {}
    return {line[9:]: line[:8] for line in lines.decode().splitlines()}


def _files(folder: epath.Path, prefix: str = "") -> list[str]:
    """The paths of all files below `folder`, relative to it and sorted, but for the checksums themselves."""
    names: list[str] = []
    for path in children(folder):
        if path.is_dir():
            names += _files(path, f"{prefix}{path.name}/")
        elif prefix or path.name not in _OURS:
            names.append(f"{prefix}{path.name}")
    return sorted(names)


def _checksums(folder: epath.Path, names: Collection[str]) -> dict[str, str]:
    with ThreadPoolExecutor() as threads:
        return dict(zip(names, threads.map(lambda name: _file_checksum(folder / name), names), strict=True))


def _file_checksum(path: epath.Path) -> str:
    for pause in _PAUSES:
        try:
            value = 0
            with path.open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    value = zlib.crc32(chunk, value)
            return f"{value:08x}"
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            time.sleep(pause)  # A network may be out of order for a moment.
    return "unreadable"  # The disk itself has found damage.
