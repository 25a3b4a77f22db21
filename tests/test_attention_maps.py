"""The pictures that `python -m gcvit_flax.attention_maps` draws, and its error messages."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import skimage.data
from PIL import Image
from small import TINY

from gcvit_flax import attention_maps
from gcvit_flax.cli import run_cli
from gcvit_flax.config import Preprocessing
from gcvit_flax.data.preprocess import preprocess
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.model.init import init_params
from gcvit_flax.visualize import attention_figures
from gcvit_flax.visualize.attention_weights import attention_map
from gcvit_flax.visualize.overlay import overlay
from gcvit_flax.weights.model_folder import save_model

MODEL = GCViT(TINY, Preprocessing((32, 32)))  # It sees a center crop.


@pytest.fixture(scope="module")
def variables() -> dict:
    """Random parameters far from zero, so that no attention is nearly uniform."""
    return {"params": jax.tree.map(lambda leaf: np.asarray(3 * leaf), init_params(MODEL, jax.random.key(0)))}


@pytest.fixture(scope="module")
def folder(variables, tmp_path_factory):
    """A folder with the model, skimage's cat of 451 x 300 px, an image of one row of pixels, and a folder.png."""
    folder = tmp_path_factory.mktemp("attention")
    save_model(folder / "model", MODEL, variables)
    Image.fromarray(skimage.data.chelsea()).save(folder / "cat.png")
    Image.new("RGB", (300, 1)).save(folder / "line.png")
    (folder / "folder.png").mkdir()
    return folder


@pytest.fixture
def command(folder, monkeypatch, capsys):
    """Runs the command in the folder and gives (exit status, stdout, stderr)."""
    monkeypatch.chdir(folder)

    def run(arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            run_cli(functools.partial(attention_maps.main, arguments.split()))
        return stop.value.code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("options", "place", "head", "title"),
    [
        ("", (2, 0), None, "level 2, block 0 (local), mean of the heads"),  # The level has no global block.
        ("--level 0", (0, 1), None, "level 0, block 1 (global), mean of the heads"),
        ("--level 1 --head 1", (1, 0), 1, "level 1, block 0 (local), head 1"),
    ],
)
def test_one_map_is_drawn_over_the_image(command, variables, options, place, head, title):
    status, output, _ = command(f"model cat.png one.png {options}")
    values = attention_map(MODEL, variables, preprocess("cat.png", MODEL), *place)[0]
    values = values.mean(0) if head is None else values[head]
    assert status == 0
    assert output == f"one.png: {title}, from {values.min():.2g} to {values.max():.2g}; 1 is uniform attention\n"
    drawn = np.asarray(Image.open("one.png"))[..., :3]
    assert drawn.shape == (300, 451, 3) and drawn.std() > 10
    np.testing.assert_array_equal(drawn, overlay(Image.open("cat.png"), values, (75, 0, 376, 300)))


ALL_BLOCKS = ((0, "0 (local)"), (0, "1 (global)"), (1, "0 (local)"), (2, "0 (local)"), (3, "0 (local)"))


@pytest.mark.parametrize(
    ("arguments", "titles"),
    [
        (
            "cat.png panels.png --level all --block all",
            ["the image", *(f"level {level}, block {block}, mean of the heads" for level, block in ALL_BLOCKS)],
        ),
        ("--bias panels.png", [f"level 2, block 0 (local), head {head}" for head in (0, 1)]),
    ],
)
def test_several_maps_are_titled_panels(command, monkeypatch, arguments, titles):
    figures, write = [], attention_figures.write_figure
    monkeypatch.setattr(
        attention_figures, "write_figure", lambda path, figure: figures.append(figure) or write(path, figure)
    )
    assert command(f"model {arguments}")[0] == 0
    drawn = [axes.get_title().split("\n")[0] for axes in figures[0].axes]
    assert [title for title in drawn if title] == titles  # The color bar has none.
    assert np.asarray(Image.open("panels.png")).std() > 10


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("model cat.png x.png --level 4", "the network has no level 4: its levels are 0 to 3"),
        ("model cat.png x.png --level 0 --block 2", "level 0 has no block 2: its blocks are 0 to 1"),
        ("model cat.png x.png --head -1", "level 2 has no head -1: its heads are 0 to 1"),
        (". cat.png x.png", "is not a model folder: it has no config.json"),
        ("model dog.png x.png", "dog.png: there is no such image file"),
        ("model cat.png x.jpg", "a picture's name must end in .png, got x.jpg"),
        ("model cat.png nowhere/x.png", "nowhere/x.png cannot be written"),
        ("model cat.png folder.png", "folder.png cannot be written"),
        ("model line.png x.png", "an image of 300x1 px is too small to draw on"),
    ],
)
def test_bad_input_is_one_sentence(command, folder, arguments, expected):
    status, output, errors = command(arguments)
    assert status == 1 and output == ""
    assert errors.startswith("error: ") and errors.count("\n") == 1 and expected in errors
    assert not [*folder.glob("x.*"), *folder.glob("*.partial")]


def test_an_image_may_be_left_out_for_the_bias_alone(command):
    status, _, errors = command("model x.png")
    assert status == 2 and "IMAGE is missing" in errors


def test_more_panels_than_can_be_read_are_refused():
    config = dataclasses.replace(TINY, depths=(20, 1, 22, 1))  # Of 1, 2, 2 and 4 heads.
    with pytest.raises(ValueError, match=r"^70 panels are too many, .* choose a --level, a --block or --head mean$"):
        attention_maps._panels(config, "all", "all", "all")
