"""Damaged and forged zip archives: one sentence, exit status 1, nothing written."""

import shutil
import zipfile

import pytest


@pytest.mark.parametrize("name", ["micro.keras302.keras", "micro.nvlabs.pth.tar"])
@pytest.mark.parametrize("keep", [0.001, 0.5, 0.999])
def test_truncated(tmp_path, files, rejects, name, keep):
    content = (files / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * keep)])
    assert "truncated or damaged zip" in rejects(tmp_path / name)


@pytest.mark.parametrize("name", ["micro.keras302.keras", "micro.nvlabs.pth.tar"])
def test_changed_bytes_inside_an_archive(tmp_path, files, rejects, name):
    content = bytearray((files / name).read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / name).write_bytes(content)
    assert "CRC" in rejects(tmp_path / name)


def test_changed_bytes_in_a_compressed_archive(tmp_path, files, rejects):
    with zipfile.ZipFile(files / "micro.keras302.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(tmp_path / "x.keras", "w", method) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        content = bytearray((tmp_path / "x.keras").read_bytes())
        content[len(content) // 2 : len(content) // 2 + 100] = bytes(100)
        (tmp_path / "x.keras").write_bytes(content)
        rejects(tmp_path / "x.keras")


@pytest.mark.parametrize("member", ["/tmp/evil", "../../evil", "a/../../evil", "C:/evil", "..\\evil"])
@pytest.mark.parametrize("name", ["micro.keras302.keras", "micro.nvlabs.pth.tar"])
def test_a_zip_that_points_outside(tmp_path, files, rejects, name, member):
    shutil.copy(files / name, tmp_path / name)
    with zipfile.ZipFile(tmp_path / name, "a") as archive:
        archive.writestr(member, "evil")
    assert "points outside" in rejects(tmp_path / name)


def test_a_zip_that_unpacks_to_far_more(tmp_path, files, rejects):
    shutil.copy(files / "micro.keras302.keras", tmp_path / "bomb.keras")
    with zipfile.ZipFile(tmp_path / "bomb.keras", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(10_000_000))
    assert "over 4 times its size" in rejects(tmp_path / "bomb.keras")


def test_a_place_before_the_archives_start(tmp_path, files, rejects):
    """The directory says that it is longer than it is: all members then seem to begin earlier."""
    content = bytearray((files / "micro_ls.keras302.keras").read_bytes())
    for place, new in ((len(content) - 3, b"\x08"), (159, b"\xff" * 8)):
        content[place : place + len(new)] = new
    (tmp_path / "x.keras").write_bytes(content)
    assert "damaged" in rejects(tmp_path / "x.keras")
