import concurrent.futures

import pytest

from gcvit_flax import atomic
from gcvit_flax.atomic import replace_text, replacing_file, replacing_folder


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    replace_text(tmp_path / "a.txt", "old")
    with pytest.raises(KeyboardInterrupt), replacing_file(tmp_path / "a.txt") as draft:
        draft.write_text("half")
        raise KeyboardInterrupt
    assert (tmp_path / "a.txt").read_text() == "old"
    replace_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new" and names(tmp_path) == ["a.txt"]


@pytest.fixture(params=[True, False], ids=["exchanged", "moved aside"])
def ways(request, monkeypatch):
    """Replaces folders in both ways: that of this system, and that of systems where two cannot be exchanged."""
    if not request.param:
        monkeypatch.setattr(atomic, "_exchange", lambda *_: False)


def test_a_folder_appears_and_is_replaced_whole(tmp_path, ways):
    for text in ("first", "second"):
        with replacing_folder(tmp_path / "below" / "a") as draft:
            (draft / text).write_text(text)
            assert names(tmp_path / "below").count("a") == (text == "second")
        assert names(tmp_path / "below" / "a") == [text]
        assert names(tmp_path / "below") == ["a"]


@pytest.mark.parametrize("earlier", [False, True])
def test_nothing_is_left_of_a_block_that_fails(tmp_path, earlier, ways):
    if earlier:
        (tmp_path / "a" / "kept").mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt), replacing_folder(tmp_path / "a") as draft:
        (draft / "x").write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["a"] * earlier
    assert not earlier or names(tmp_path / "a") == ["kept"]


def test_the_earlier_folder_is_back_where_the_new_one_cannot_be_renamed(tmp_path, ways):
    (tmp_path / "a" / "kept").mkdir(parents=True)
    with pytest.raises(FileNotFoundError), replacing_folder(tmp_path / "a") as draft:
        draft.rmtree()
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["kept"]


def test_a_folder_that_has_come_meanwhile_is_not_replaced(tmp_path):
    with pytest.raises(FileExistsError), replacing_folder(tmp_path / "a"):
        (tmp_path / "a" / "theirs").mkdir(parents=True)
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["theirs"]


def test_a_folder_that_has_gone_meanwhile(tmp_path, ways):
    (tmp_path / "a").mkdir()
    with replacing_folder(tmp_path / "a") as draft:
        (draft / "new").touch()
        (tmp_path / "a").rmdir()
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["new"]


def test_after_a_kill_between_the_two_renames_the_earlier_folder_is_back(tmp_path):
    for state in (".a.partial", ".a.earlier"):
        (tmp_path / state / state).mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt), replacing_folder(tmp_path / "a") as draft:
        assert names(draft) == [] and names(tmp_path / "a") == [".a.earlier"]
        raise KeyboardInterrupt
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == [".a.earlier"]


def test_the_folder_that_a_link_points_to_is_replaced(tmp_path, ways):
    (tmp_path / "disk" / "real").mkdir(parents=True)
    (tmp_path / "a").symlink_to(tmp_path / "disk" / "real")
    with replacing_folder(tmp_path / "a") as draft:
        (draft / "new").touch()
    assert (tmp_path / "a").is_symlink() and names(tmp_path / "a") == names(tmp_path / "disk" / "real") == ["new"]
    assert names(tmp_path) == ["a", "disk"] and names(tmp_path / "disk") == ["real"]


def test_a_reader_always_finds_the_folder(tmp_path):
    """However often it is replaced: one of the folders, whole."""

    def fill(text):
        with replacing_folder(tmp_path / "a") as draft:
            (draft / "text").write_text(text)

    fill("first")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        writer = pool.submit(lambda: [fill(str(number)) for number in range(500)])
        found = set()
        while not writer.done():
            found.add((tmp_path / "a" / "text").read_text())
        writer.result()
    assert len(found) > 1 and names(tmp_path) == ["a"]
