"""The random crop of training, and JPEGs decoded at a fraction of their size."""

import io

import numpy as np
import pytest
from PIL import Image

from gcvit_flax.data import random_crop
from gcvit_flax.data.decode import decode
from gcvit_flax.data.random_crop import random_resized_crop


def test_random_crop_stays_in_the_area_and_repeats_with_its_seed():
    """On a ramp along each axis, the range of the crop's values is its share of that side."""
    ramp = np.tile(np.linspace(0, 255, 200), (200, 1))
    image = Image.fromarray(np.stack([ramp, ramp.T, ramp], -1).astype(np.uint8))
    shares = []
    for seed in range(200):
        crop = random_resized_crop(image, (24, 16), np.random.default_rng(seed), (0.2, 0.6))
        assert crop.shape == (24, 16, 3)
        spans = [np.ptp(crop[..., channel].astype(float)) / 255 for channel in (0, 1)]
        shares.append(spans[0] * spans[1])
    assert 0.12 < min(shares) < 0.3 and 0.5 < max(shares) < 0.65
    again = random_resized_crop(image, (24, 16), np.random.default_rng(199), (0.2, 0.6))
    np.testing.assert_array_equal(again, crop)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same(orientation, monkeypatch):
    """601 x 403 pixels are 75.125 x 50.375 at an eighth: the fractions must not shift the crop in any orientation."""
    noise = np.random.default_rng(0).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    photo = Image.fromarray(noise).resize((601, 403), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    photo.save(stream, "JPEG", quality=95, exif=exif)
    data = stream.getvalue()

    decoded, to_rgb = [], random_crop.to_rgb
    monkeypatch.setattr(random_crop, "to_rgb", lambda image: decoded.append(image.size) or to_rgb(image))
    size, area = (20, 16), (0.6, 1.0)
    for seed in range(8):
        crop = random_resized_crop(data, size, np.random.default_rng(seed), area)
        whole = random_resized_crop(decode(data), size, np.random.default_rng(seed), area)
        assert np.abs(crop.astype(int) - whole).max() <= 6
    assert {(151, 101), (76, 51)} & set(decoded)
    random_resized_crop(data, (300, 200), np.random.default_rng(0), area)
    assert decoded[-1] == (601, 403), "a crop of less than twice the size needs every pixel"


def test_a_crop_that_never_fits_falls_back_to_the_middle():
    strip = Image.fromarray(np.zeros((10, 400, 3), np.uint8))
    assert random_resized_crop(strip, (8, 8), np.random.default_rng(0), (0.9, 1.0)).shape == (8, 8, 3)
