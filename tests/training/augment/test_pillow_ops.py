"""RandAugment's operations against Pillow on real photos, and what is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageEnhance, ImageOps

from gcvit_flax.training.augment.rand_augment import (
    NO_OPERATION,
    OPERATIONS,
    WARPS,
    apply_operation,
    draw_operations,
    rand_augment,
)

FILL = (124, 116, 104)
FILL_COLOR = jnp.uint8(FILL)
SIZE = (60, 44)
PHOTOS = [
    *(Image.fromarray(getattr(skimage.data, name)()).resize(SIZE) for name in ("chelsea", "astronaut", "coffee")),
    Image.fromarray(skimage.data.chelsea()[120:164, 100:160] // 4 + 90),  # Low in contrast.
    Image.new("RGB", SIZE, (255, 128, 3)),
]
PIXELS = jnp.stack([np.asarray(photo) for photo in PHOTOS])
apply_to_all = jax.jit(jax.vmap(apply_operation, (0, None, None, None)))
draw = jax.jit(jax.vmap(draw_operations, (0, None)))


def transformed(photo: Image.Image, *matrix: float) -> Image.Image:
    return photo.transform(photo.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=FILL)


def posterize(photo: Image.Image, bits: int) -> Image.Image:
    return ImageOps.posterize(photo, bits) if bits else Image.new("RGB", photo.size)  # Pillow 13 wants a bit at least.


def solarize_add(photo: Image.Image, addend: int) -> Image.Image:
    return photo.point([min(255, v + addend) if v < 128 else v for v in range(256)] * 3)


def enhance(enhancement):
    return lambda photo, share: enhancement(photo).enhance(max(0.1, 1 + 0.9 * share))


# What the recipe's operations are in Pillow's words; `share` is a tenth of the level, with its sign.
EXPECTED = {
    "autocontrast": lambda photo, share: ImageOps.autocontrast(photo),
    "equalize": lambda photo, share: ImageOps.equalize(photo),
    "invert": lambda photo, share: ImageOps.invert(photo),
    "posterize": lambda photo, share: posterize(photo, 4 - int(4 * abs(share))),
    "solarize": lambda photo, share: ImageOps.solarize(photo, 256 - int(256 * abs(share))),
    "solarize_add": lambda photo, share: solarize_add(photo, int(110 * abs(share))),
    "contrast": enhance(ImageEnhance.Contrast),
    "brightness": enhance(ImageEnhance.Brightness),
    "rotate": lambda photo, share: photo.rotate(30 * share, Image.Resampling.BILINEAR, fillcolor=FILL),
    "shear_x": lambda photo, share: transformed(photo, 1, 0.3 * share, 0, 0, 1, 0),
    "shear_y": lambda photo, share: transformed(photo, 1, 0, 0, 0.3 * share, 1, 0),
    "translate_x": lambda photo, share: transformed(photo, 1, 0, 0.45 * share * photo.width, 0, 1, 0),
    "translate_y": lambda photo, share: transformed(photo, 1, 0, 0, 0, 1, 0.45 * share * photo.height),
    "color": enhance(ImageEnhance.Color),
    "sharpness": enhance(ImageEnhance.Sharpness),
}


# Pillow computes in float64 and rounds down: where we fall just short of an integer, we are one gray level darker. How
# often that is depends on the code XLA makes: these shares of all values hold for both of its generators.
BLENDS = ("autocontrast", "contrast", "color", "sharpness")
DIFFERING = dict.fromkeys(OPERATIONS, 0.0) | dict.fromkeys(WARPS, 0.025) | dict.fromkeys(BLENDS, 0.005)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_pillows(name):
    for level in (-10.0, -8.7, -4.1, 0.0, 2.3, 9.2, 10.0):
        ours = np.asarray(apply_to_all(PIXELS, OPERATIONS.index(name), level, FILL_COLOR), int)
        theirs = np.stack([EXPECTED[name](photo, level / 10) for photo in PHOTOS]).astype(int)
        difference = np.abs(ours - theirs)
        assert difference.max() <= 1, level
        assert (difference > 0).mean() <= DIFFERING[name], level


def test_all_fifteen_operations_are_tested():
    assert len(set(OPERATIONS)) == len(OPERATIONS) == 15
    assert set(EXPECTED) == set(OPERATIONS)


def test_no_operation_changes_nothing():
    np.testing.assert_array_equal(apply_to_all(PIXELS, NO_OPERATION, 9.0, FILL_COLOR), PIXELS)


def test_layers_apply_one_after_the_other():
    keys = jax.random.split(jax.random.key(3), 12)
    augmented = jax.jit(jax.vmap(lambda key: rand_augment(key, PIXELS[1], 9.0, FILL_COLOR)))(keys)
    operations, levels = draw(keys, 9.0)
    assert ((operations != NO_OPERATION).all(1) & (operations[:, 0] != operations[:, 1])).any()
    for image, two_operations, two_levels in zip(augmented, operations, levels, strict=True):
        expected = PIXELS
        for operation, level in zip(two_operations, two_levels, strict=True):
            expected = apply_to_all(expected, operation, level, FILL_COLOR)
        np.testing.assert_array_equal(image, expected[1])


def test_what_is_drawn():
    operations, levels = draw(jax.random.split(jax.random.key(0), 6000), 9.0)
    assert operations.shape == levels.shape == (6000, 2)
    shares = np.bincount(operations.ravel(), minlength=16) / operations.size
    np.testing.assert_allclose(shares[:15], 1 / 30, atol=0.008)  # Five standard deviations.
    assert shares[NO_OPERATION] == pytest.approx(0.5, abs=0.025)
    np.testing.assert_allclose((levels > 0).mean(0), 0.5, atol=0.035)
    amounts = np.abs(levels)
    np.testing.assert_allclose(np.quantile(amounts, [0.16, 0.5, 0.84]), [8.5, 9.0, 9.5], atol=0.03)
    assert amounts.max() == 10 and (amounts == 10).mean() == pytest.approx(0.0228, abs=0.007)
    for values in (operations == NO_OPERATION, operations, amounts, levels > 0):  # The layers are independent,
        assert abs(np.corrcoef(values[:, 0], values[:, 1])[0, 1]) < 0.07
    assert abs(np.corrcoef(operations.ravel(), amounts.ravel())[0, 1]) < 0.05  # and so are kind and level.
    assert np.abs(draw(jax.random.split(jax.random.key(1), 6000), 0.1)[1]).min() == 0
