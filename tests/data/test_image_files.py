import io
import sys

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
