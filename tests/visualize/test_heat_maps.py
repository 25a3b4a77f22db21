from pathlib import Path

import pytest

from gcvit_flax.errors import UserError
from gcvit_flax.visualize.heat_maps import heat_map_paths, make_folders


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_pictures_lie_in_folders_like_their_images():
    assert heat_map_paths("seen.png", ["a.jpg"]) == {"a.jpg": Path("seen.png")}
    assert heat_map_paths("seen", ["a.jpg"]) == {"a.jpg": Path("seen/a.png")}
    images = ["photos/cats/1.jpg", "photos/dogs/1.jpg", "photos/./dogs/1.jpg"]
    names = ["seen/cats/1.png", "seen/dogs/1.png", "seen/dogs/1.png"]
    assert heat_map_paths("seen", images) == dict(zip(images, map(Path, names), strict=True))
    same_stem = ["photos/1.jpg", "photos/1.png", "photos/2.jpg"]
    names = ["seen/1.jpg.png", "seen/1.png.png", "seen/2.png"]
    assert heat_map_paths("seen", same_stem) == dict(zip(same_stem, map(Path, names), strict=True))
    Path("folder.png").mkdir()
    assert heat_map_paths("folder.png", ["a.jpg", "b.jpg"])["b.jpg"] == Path("folder.png/b.png")


def test_mistakes_are_found_before_anything_is_drawn():
    Path("a.png").touch()
    Path("link").symlink_to(".")
    for out, images, expected in (
        ("seen.png", ["a.jpg", "b.jpg"], "seen.png is a single picture, and the inputs are 2 images: name a folder"),
        ("seen.jpg", ["a.jpg"], "a picture's name must end in .png, got seen.jpg"),
        ("no/seen.png", ["a.jpg"], "no/seen.png cannot be written"),
        ("a.png", ["a.png"], "the heat map a.png would replace an image"),
        ("link", ["a.png", "b.jpg"], "the heat map link/a.png would replace an image"),
    ):
        with pytest.raises(UserError, match=expected):
            heat_map_paths(out, images)


def test_folders_are_made():
    make_folders([Path("seen/cats/1.png"), Path("seen/dogs/1.png")])
    assert sorted(path.name for path in Path("seen").iterdir()) == ["cats", "dogs"]
    Path("file").touch()
    with pytest.raises(UserError, match=r"the folder file/cats cannot be made \(Not a directory\)"):
        make_folders([Path("file/cats/1.png")])
