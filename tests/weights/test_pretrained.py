"""Published weights by name, from a server of this machine: fetched, converted and kept."""

import logging

import pytest

import gcvit_flax
from gcvit_flax.errors import UserError
from gcvit_flax.weights.download import sha256
from gcvit_flax.weights.pretrained import find_model_folder
from gcvit_flax.weights.published import PUBLISHED, Published, find_published


@pytest.fixture
def published(server, tmp_path, files, monkeypatch):
    """The server, which has the micro network under the name gcvit_micro."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    source = files / "micro.keras302.keras"
    server.content = source.read_bytes()
    server.stop_after = len(server.content)
    server.url = server.url.replace("weights.bin", "gcvit_1k_micro.keras")
    monkeypatch.setitem(PUBLISHED, "gcvit_micro", Published(server.url, len(server.content), sha256(source)))
    return server


@pytest.mark.parametrize("name", ["gcvit_micro", "gcvit_1k_micro", "gcvit_1k_micro.keras"])
def test_a_name_is_fetched_converted_and_kept(published, files, tmp_path, name, assert_same_tree, caplog):
    with caplog.at_level(logging.INFO, "gcvit_flax"):
        model, variables = gcvit_flax.load_model(name)
    assert "under the license CC-BY-NC-SA-4.0" in caplog.text
    report = gcvit_flax.convert(files / "micro.keras302.keras", "by_hand")
    expected_model, expected = gcvit_flax.load_model("by_hand")
    assert model == expected_model and model.config == report.config
    assert_same_tree(variables, expected)
    assert_same_tree(gcvit_flax.load_model(name)[1], expected)
    assert len(published.requests) == 1
    assert sorted(path.name for path in (tmp_path / "cache" / "gcvit_flax").glob("*/*")) == [
        "gcvit_1k_micro.keras",
        "model_1",
    ]


def test_the_file_is_not_needed_again(published, tmp_path):
    gcvit_flax.load_model("gcvit_micro")
    next((tmp_path / "cache").rglob("*.keras")).unlink()
    gcvit_flax.load_model("gcvit_micro")
    assert len(published.requests) == 1


def test_it_is_adapted_as_a_folder_is(published):
    model, variables = gcvit_flax.load_model(
        "gcvit_micro", num_classes=3, image_size=64, in_channels=1, reference="keras_io", seed=1
    )
    assert model.config.reference == "keras_io" and model.config.image_size == (64, 64)
    assert variables["params"]["head"]["kernel"].shape == (64, 3)
    assert variables["params"]["patch_embed"]["proj"]["kernel"].shape == (3, 3, 1, 8)


def test_a_folder_of_that_name_comes_first(published, micro, assert_same_tree):
    gcvit_flax.save_model("gcvit_micro", *micro)
    assert_same_tree(gcvit_flax.load_model("gcvit_micro")[1], micro[1])
    assert find_model_folder("gcvit_micro") == "gcvit_micro" and not published.requests


def test_an_unknown_name_lists_the_known_ones(published):
    with pytest.raises(UserError, match=r"gcvit_gigantic is not .*published names gcvit_xxtiny, .*timm/gcvit_base"):
        gcvit_flax.load_model("gcvit_gigantic")


def test_a_failed_download_leaves_no_model(published, tmp_path):
    published.stop_after = 1000
    with pytest.raises(UserError, match="run again to resume"):
        gcvit_flax.load_model("gcvit_micro")
    assert not list((tmp_path / "cache").rglob("model_*"))
    published.stop_after = len(published.content)
    gcvit_flax.load_model("gcvit_micro")


def test_a_failed_conversion_leaves_no_model(published, tmp_path):
    """What was published may hold another network than this version knows."""
    published.content = b"no weights"
    published.stop_after = len(published.content)
    PUBLISHED["gcvit_micro"] = Published(published.url)
    with pytest.raises(UserError, match="not a weight file"):
        gcvit_flax.load_model("gcvit_micro")
    assert not list((tmp_path / "cache").rglob("*model_*"))


def test_a_cache_that_cannot_be_made(published, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="let XDG_CACHE_HOME name another folder"):
        gcvit_flax.load_model("gcvit_micro")


def test_every_published_file_has_one_name():
    for name, entry in PUBLISHED.items():
        file = entry.url.rsplit("/", 1)[-1]
        for alias in (name, entry.url, file, file.split(".")[0]):
            assert find_published(alias) == entry
    assert find_published("gcvit_21k_large_384") == PUBLISHED["gcvit_large_384"]
    assert set(gcvit_flax.VARIANTS) <= PUBLISHED.keys()
