"""The deterministic crops of evaluation and prediction."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from small import ROOT

from gcvit_flax.config import Preprocessing
from gcvit_flax.data.bands import read_picture
from gcvit_flax.data.crops import evaluation_crop, whole_image

# The longest picture itself takes some 200 MB, 8 bytes for a row in gray and in RGB, and the process 60.
MEMORY = """
import io
from PIL import Image
from gcvit_flax.config import Preprocessing
from gcvit_flax.data.crops import read_crop
from gcvit_flax.training.report.process_memory import peak_memory_of_process

for size, crop_mode in (((2, 40_000), "center"), ((40_000, 2), "center"), ((2, 8_000_000), "squash")):
    stream = io.BytesIO()
    Image.new("L", size, 77).save(stream, "PNG")
    assert (read_crop(stream.getvalue(), Preprocessing(crop_mode=crop_mode)) == 77).all()
print(peak_memory_of_process())
"""
MEMORY_LIMIT = 400 * 2**20


@pytest.mark.parametrize(
    ("size", "crop_mode", "corner"),
    [((100, 50), "center", 64), ((50, 100), "center", 0), ((100, 50), "squash", 0)],
)
def test_evaluation_crop_geometry(size, crop_mode, corner):
    """On a horizontal ramp 0..255, the value at the crop's corner shows how much was cut off."""
    ramp = np.tile(np.linspace(0, 255, size[0]), (size[1], 1)).astype(np.uint8)
    image = Image.fromarray(np.stack([ramp] * 3, -1))
    crop = evaluation_crop(image, Preprocessing((20, 20), crop_mode=crop_mode))
    assert crop.shape == (20, 20, 3) and crop.dtype == np.uint8
    assert abs(int(crop[10, 0, 0]) - corner) < 8


def test_crop_fraction_takes_the_center_of_a_larger_image():
    """At .875 a 224 px crop comes from a 256 px image, as the official evaluation does."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 512, 3), dtype=np.uint8))
    resized = image.resize((437, 256), Image.Resampling.BICUBIC)  # 512 * 256 / 300 = 436.9
    expected = np.asarray(resized)[16:240, 106:330]
    np.testing.assert_array_equal(evaluation_crop(image, Preprocessing((224, 224), crop_fraction=0.875)), expected)


@pytest.mark.parametrize("side", [224, 384])
def test_whole_images_have_five_shapes_and_are_squashed_by_a_fifth_at_most(side):
    shapes = set()
    for width in range(400, 2501, 10):
        preprocessing = whole_image(Image.new("1", (width, 1000)), Preprocessing((side, side), crop_fraction=0.875))
        height, across = preprocessing.image_size
        squash = width / 1000 * height / across
        assert min(squash, 1 / squash) >= 0.8
        assert height % 32 == across % 32 == 0 and 0.9 < height * across / side**2 < 1.1
        shapes.add((height, across))
    assert len(shapes) == 5 and (side, side) in shapes
    extremes = [whole_image(Image.new("1", size), Preprocessing((side, side))) for size in ((9000, 3), (3, 9000))]
    assert {preprocessing.image_size for preprocessing in extremes} <= shapes
    ramp = Image.linear_gradient("L").rotate(90).resize((700, 300)).convert("RGB")
    crop = evaluation_crop(ramp, whole_image(ramp, Preprocessing((side, side), crop_fraction=0.875)))
    assert {int(crop[0, 0, 0]) // 4, int(crop[0, -1, 0]) // 4} == {0, 63}, "both ends are there"


def resized_whole(image, preprocessing) -> np.ndarray:
    """The crop as the words define it: the whole image resized, then the middle cut."""
    height, width = preprocessing.image_size
    resized = [math.floor(side / preprocessing.crop_fraction) for side in (width, height)]
    if preprocessing.crop_mode == "center":
        scale = max(resized[0] / image.width, resized[1] / image.height)
        resized = [max(side, round(scale * length)) for side, length in zip(resized, image.size, strict=True)]
    left, top = round((resized[0] - width) / 2), round((resized[1] - height) / 2)
    whole = image.resize(resized, Image.Resampling[preprocessing.kernel.upper()])
    return np.asarray(whole.crop((left, top, left + width, top + height)))


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("size", [(32, 48), (48, 32), (30, 31), (480, 30), (30, 480), (333, 501), (64, 64)])
def test_crops_of_ordinary_images_are_cut_from_the_whole(size, crop_mode):
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    for kernel in ("bicubic", "bilinear"):
        preprocessing = Preprocessing((32, 48), 0.875, crop_mode, kernel)
        image = Image.fromarray(pixels)
        np.testing.assert_array_equal(evaluation_crop(image, preprocessing), resized_whole(image, preprocessing))


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("size", [(2, 40), (1, 301), (7, 3001), (40, 20_000)])
@pytest.mark.parametrize("channels", [3, 1])
def test_crops_of_strips_look_as_if_cut_from_the_whole(size, crop_mode, channels):
    """Both ways round, in both kinds of pictures; what is squashed is reduced first, which changes little."""
    smooth = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    strip = Image.fromarray(smooth).resize(size, Image.Resampling.BICUBIC)
    for image in (strip, strip.transpose(Image.Transpose.ROTATE_90)):
        preprocessing = Preprocessing((32, 48), 0.875, crop_mode, mean=[0.5] * channels, std=[0.5] * channels)
        picture = read_picture(image, channels=channels)
        expected = resized_whole(picture, preprocessing).astype(float)
        difference = np.abs(evaluation_crop(picture, preprocessing) - expected)
        assert difference.shape == (32, 48, channels) and difference.max() <= 3, size


def test_extreme_images_take_little_memory():
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    process = subprocess.run([sys.executable, "-c", MEMORY], env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert int(process.stdout) < MEMORY_LIMIT
