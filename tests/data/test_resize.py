"""Parts of images, resized as Pillow does it."""

import numpy as np
import pytest
from PIL import Image

from gcvit_flax.data import resize
from gcvit_flax.data.resize import resize_crop


@pytest.mark.parametrize("kernel", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("box", "size"),
    [((0, 0, 301, 203), (64, 48)), ((7.25, 3.5, 290.125, 200.5), (224, 224)), ((150, 90, 190, 140), (96, 128))],
    ids=["whole", "fractions", "enlarged"],
)
def test_pixels_are_pillows(box, size, kernel):
    """Where the filter's overshoots are clipped, between the passes along x and y, their order makes a difference."""
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).resize((301, 203))
    grain = rng.integers(-20, 20, (203, 301, 3))
    photo = Image.fromarray((np.asarray(photo) + grain).clip(0, 255).astype(np.uint8))
    expected = np.asarray(photo.resize(size[::-1], Image.Resampling[kernel.upper()], box=box)).astype(int)
    difference = np.abs(resize_crop(np.asarray(photo), box, size, kernel) - expected)
    assert difference.shape == (*size, 3)
    assert difference.mean() < 0.3 and (difference > 1).mean() < 0.002 and difference.max() <= 10


def test_without_the_fast_resizer_they_are_pillows_own(monkeypatch):
    monkeypatch.setattr(resize, "cykooz_resizer", None)
    photo = Image.effect_noise((50, 40), 60).convert("RGB")
    for kernel in ("bicubic", "bilinear"):
        expected = photo.resize((16, 8), Image.Resampling[kernel.upper()], box=(1, 2, 33, 30))
        np.testing.assert_array_equal(resize_crop(np.asarray(photo), (1, 2, 33, 30), (8, 16), kernel), expected)
