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

    decoded, resize_crop = [], random_crop.resize_crop
    monkeypatch.setattr(
        random_crop,
        "resize_crop",
        lambda pixels, *rest: decoded.append(pixels.shape[1::-1]) or resize_crop(pixels, *rest),
    )
    size, area = (20, 16), (0.6, 1.0)
    for seed in range(8):
        crop = random_resized_crop(data, size, np.random.default_rng(seed), area)
        whole = random_resized_crop(decode(data), size, np.random.default_rng(seed), area)
        assert np.abs(crop.astype(int) - whole).max() <= 6
    assert {(151, 101), (76, 51)} & set(decoded)
    decoded.clear()
    random_resized_crop(data, (300, 200), np.random.default_rng(0), area)
    assert decoded == [(601, 403)], "a crop of less than twice the size needs every pixel"


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpegs_of_every_color_model_become_rgb(mode):
    photo = Image.effect_noise((90, 70), 60).convert(mode)
    stream = io.BytesIO()
    photo.save(stream, "JPEG")
    crop, whole = (
        random_resized_crop(source, (32, 32), np.random.default_rng(0), (0.5, 1.0))
        for source in (stream.getvalue(), decode(stream.getvalue()))
    )
    np.testing.assert_array_equal(crop, whole)


def test_a_slightly_damaged_jpeg_is_what_pillow_makes_of_it():
    stream = io.BytesIO()
    Image.effect_noise((90, 70), 60).convert("RGB").save(stream, "JPEG")
    data = stream.getvalue()
    middle = len(data) // 2
    damaged = data[:middle] + bytes(3) + data[middle + 3 :]
    crop, whole = (
        random_resized_crop(source, (32, 32), np.random.default_rng(0), (0.5, 1.0))
        for source in (damaged, decode(damaged))
    )
    np.testing.assert_array_equal(crop, whole)


def test_crops_do_not_change_with_the_next_image():
    """JPEGs are decoded into the same memory one after the other."""
    images = []
    for color in ("red", "blue"):
        stream = io.BytesIO()
        Image.new("RGB", (90, 70), color).save(stream, "JPEG")
        images.append(stream.getvalue())
    crops = [random_resized_crop(data, (8, 8), np.random.default_rng(0), (0.5, 1.0)) for data in images]
    assert (crops[0][..., 0] > 250).all() and (crops[1][..., 2] > 250).all()


def test_a_crop_that_never_fits_falls_back_to_the_middle():
    strip = Image.fromarray(np.zeros((10, 400, 3), np.uint8))
    assert random_resized_crop(strip, (8, 8), np.random.default_rng(0), (0.9, 1.0)).shape == (8, 8, 3)
