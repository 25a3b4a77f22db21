import re
import sys

import numpy as np
import pytest
from PIL import Image

from gcvit_flax.cli import run_cli
from gcvit_flax.training import show_batch


def show(monkeypatch, capsys, *arguments) -> tuple[int, str]:
    """The exit status and stderr."""
    monkeypatch.setattr(sys, "argv", ["show_batch", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        run_cli(show_batch.main)
    return exit_.value.code, capsys.readouterr().err


@pytest.fixture
def small(photos) -> list:
    return [
        *("finetune", "--data", f"folder:{photos}", "--image-size", "32", "--batch-size", "6"),
        *("--no-flip", "--color-jitter", "0"),
    ]


def test_images_are_drawn_with_their_shares(monkeypatch, capsys, tmp_path, small):
    drawn = {}
    draw = show_batch._draw
    monkeypatch.setattr(show_batch, "_draw", lambda *arguments: [drawn.update(x=arguments), draw(*arguments)])
    assert show(monkeypatch, capsys, tmp_path / "out.png", *small, "--mixup", "1", "--seed", "3")[0] == 0
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.width > picture.height > 300  # 3 x 2 images.
    _, images, titles = drawn["x"]
    assert images.shape == (6, 32, 32, 3) and images.min() >= 0 and images.max() <= 1
    assert len(titles) == 6
    # In each photo one channel is the brightest: that of its class.
    channels = ["red_things", "green_things", "blue_things"]
    mixed = 0
    for image, title in zip(images, titles, strict=True):
        shares = dict.fromkeys(channels, 0.0) | {
            name: float(share or 100) / 100 for name, share in re.findall(r"^(\w+)(?: (\d+)%)?$", title, re.M)
        }
        excess = np.array([shares[name] for name in channels]) * 120 / 255
        np.testing.assert_allclose(image.mean((0, 1)) - 50 / 255, excess, atol=0.06)
        mixed += "\n" in title
    assert mixed


def test_mistakes_are_reported_in_one_sentence(monkeypatch, capsys, tmp_path, small):
    needs_data = small[:1] + small[3:]
    status, said = show(monkeypatch, capsys, tmp_path / "out.png", *needs_data)
    assert status == 1 and said == (
        "error: this preset has no data of its own: give --data folder:PHOTOS, tfds:NAME or hf:NAME\n"
    )
    for name, arguments, words in (
        ("out.xyz", [], "not supported"),
        ("nowhere/out.png", [], "nowhere/out.png"),
        ("out.png", ["--batch-size", "3", "--mixup", "1"], "even number of images"),
        ("out.png", ["--data", "folder:nowhere"], "nowhere is not a folder"),
    ):
        status, said = show(monkeypatch, capsys, tmp_path / name, *small, *arguments)
        assert status == 1 and words in said and said.startswith("error: ") and said.count("\n") == 1
    assert show(monkeypatch, capsys)[0] == 2 and "OUT.png" in show(monkeypatch, capsys, "--help")[1]
