import io
import sys
from pathlib import Path

import pytest

from gcvit_flax.data.image_files import find_images
from gcvit_flax.errors import UserError


def test_inputs_are_files_folders_patterns_and_a_list(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b" / "deep").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    for name in ("b/z.JPG", "b/deep/a.png", "b/notes.txt", "b/._z.jpg", "odd[1].png", "c.gif"):
        (tmp_path / name).touch()
    assert find_images(["nothing.png", "c.gif", "b"]) == ["nothing.png", "c.gif", "b/deep/a.png", "b/z.JPG"]
    assert find_images(["**/a*.png", "*.gif"]) == ["b/deep/a.png", "c.gif"]
    assert find_images(["odd[1].png"]) == ["odd[1].png"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"two words.png\nc.gif\r\n\nlast.png")))
    assert find_images(["-"]) == ["two words.png", "c.gif", "last.png"]
    for item, message in (("empty", "holds no images"), ("*.tif", "no file matches"), ("-", "standard input is empty")):
        with pytest.raises(UserError, match=message):
            find_images([item])


def test_links_are_followed_but_those_that_lead_back(tmp_path, monkeypatch):
    """A folder of linked class folders; a class has no images of another by a link to the folder of both."""
    monkeypatch.chdir(tmp_path)
    for name in ("real/cat/1.png", "real/dog/a/2.png", "real/dog/.h/3.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("linked").mkdir()
    for name, target in (
        ("linked/cat", "../real/cat"),
        ("linked/dog", "../real/dog"),
        ("linked/up", ".."),
        ("real/cat/up", ".."),
        ("real/cat/here", "."),
        ("real/dog/a/elsewhere", "../../../other/x"),
        ("other/x/back", "../../real/dog/a"),
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).symlink_to(target)
    linked = ["linked/cat/1.png", "linked/dog/a/2.png"]
    real = ["real/cat/1.png", "real/dog/a/2.png"]
    assert find_images(["linked"]) == linked
    assert find_images(["linked/**/*.png"]) == linked
    assert find_images(["linked/**"]) == linked
    assert find_images(["**/*.png"]) == sorted([*linked, *real, "other/x/back/2.png"])
    assert find_images([f"{tmp_path}/r*/**/a/**/*.png"]) == [f"{tmp_path}/real/dog/a/2.png"]
    assert find_images(["real"]) == real
    monkeypatch.chdir("real/cat")
    assert find_images(["."]) == ["1.png"]
    assert find_images(["up"]) == ["up/cat/1.png", "up/dog/a/2.png"], "a link that is named is followed"
