import builtins
import errno

import pytest
from etils import epath

from gcvit_flax.weights import checksums
from gcvit_flax.weights.checksums import add_checksums, find_change_outside, find_damage, write_checksums


@pytest.fixture
def folder(tmp_path) -> epath.Path:
    folder = epath.Path(tmp_path) / "lr=[1e-3]*"
    (folder / "arrays" / "d").mkdir(parents=True)
    for name, content in (("arrays/d/0", b"abc" * 10**6), ("arrays/empty", b""), ("a b.json", b"{}")):
        (folder / name).write_bytes(content)
    write_checksums(folder)
    return folder


def test_a_whole_folder(folder, tmp_path):
    assert find_damage(folder) is None
    folder.rename(tmp_path / "moved")
    assert find_damage(epath.Path(tmp_path / "moved")) is None


def test_without_checksums_nothing_is_known(folder):
    (folder / "checksums.txt").unlink()
    (folder / "arrays" / "d" / "0").write_bytes(b"")
    assert find_damage(folder) is None and find_change_outside(folder, "d") is None


def test_changed_missing_and_added_files_are_named(folder):
    (folder / "arrays" / "empty").write_bytes(b"0")
    assert find_damage(folder) == f"{folder}/arrays/empty is damaged"
    assert find_change_outside(folder, "arrays") is None
    (folder / "arrays" / "new").touch()
    assert find_damage(folder) == f"{folder}/arrays/new has been added"
    assert find_damage(folder, may_be_unlisted=["arrays/new"]) == f"{folder}/arrays/empty is damaged"
    (folder / "a b.json").write_bytes(b"[]")
    assert find_change_outside(folder, "arrays") == f"{folder}/a b.json is damaged"
    (folder / "a b.json").unlink()
    assert find_damage(folder) == f"{folder}/a b.json is missing"
    assert find_change_outside(folder, "arrays") is None


@pytest.mark.parametrize("content", [b"", b"1234", b"00000000\n", "é".encode("latin-1") * 20])
def test_damaged_checksums_are_named(folder, content):
    (folder / "checksums.txt").write_bytes(content)
    assert find_damage(folder) == f"{folder}/checksums.txt is damaged"


def test_what_comes_later_is_added(folder):
    (folder / "checksums.txt").unlink()
    write_checksums(folder, leaving_out=["a b.json"])
    assert find_damage(folder) == f"{folder}/a b.json has been added"
    (folder / "arrays" / "empty").write_bytes(b"0")
    (folder / "checksums.txt.partial").touch()  # As a crash leaves it.
    add_checksums(folder, ["a b.json", "not there"])
    assert find_damage(folder) == f"{folder}/arrays/empty is damaged"  # As it was listed, though it was damaged since.


def test_a_file_that_the_disk_cannot_read_is_damaged_and_another_error_is_no_damage(folder, monkeypatch):
    real_open = builtins.open

    def failing(number: int):
        def fail(path, *arguments, **options):
            if str(path).endswith("d/0"):
                raise OSError(number, "no")
            return real_open(path, *arguments, **options)

        return fail

    monkeypatch.setattr(checksums, "_PAUSES", (0, 0))
    monkeypatch.setattr(type(folder), "open", failing(errno.EIO))
    assert find_damage(folder) == f"{folder}/arrays/d/0 is damaged"
    monkeypatch.setattr(type(folder), "open", failing(errno.EACCES))
    with pytest.raises(PermissionError):
        find_damage(folder)
