"""The deterministic crops of evaluation and prediction."""

import numpy as np
import pytest
from PIL import Image

from gcvit_flax.config import Preprocessing
from gcvit_flax.data.crops import evaluation_crop, whole_image


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
