"""RandAugment's operations against Pillow on real photos, and what is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageEnhance, ImageOps

from gcvit_flax.training.augment.operations import (
    NO_OPERATION,
    OPERATIONS,
    WARPS,
    Operation,
    draw_operations,
    operation,
)
from gcvit_flax.training.augment.rand_augment import apply_operation, rand_augment

FILL = (124, 116, 104)
FILL_COLOR = jnp.uint8(FILL)
WARP_NUMBERS = [OPERATIONS.index(name) for name in WARPS]
SIZE = (60, 44)
HEIGHT_WIDTH = (44, 60)
PHOTOS = [
    *(Image.fromarray(getattr(skimage.data, name)()).resize(SIZE) for name in ("chelsea", "astronaut", "coffee")),
    Image.fromarray(skimage.data.chelsea()[120:164, 100:160] // 4 + 90),  # Low in contrast.
    Image.new("RGB", SIZE, (255, 128, 3)),
]
PIXELS = jnp.stack([np.asarray(photo) for photo in PHOTOS])
apply_vmapped = jax.jit(jax.vmap(apply_operation, (0, 0, None)))
apply_in_turn = jax.jit(rand_augment)
make_operations = jax.jit(jax.vmap(lambda number, level: operation(number, level, HEIGHT_WIDTH)))
draw = jax.jit(jax.vmap(lambda key, magnitude: draw_operations(key, magnitude, HEIGHT_WIDTH), (0, None)))


def planes_of(images):
    return jnp.moveaxis(jnp.asarray(images), -1, -3)


def images_of(planes) -> np.ndarray:
    return np.moveaxis(np.asarray(planes), -3, -1)


def the_same_for_all(number: int, level: float) -> Operation:
    return make_operations(jnp.full(len(PHOTOS), number), jnp.full(len(PHOTOS), level))


def apply_to_all(number: int, level: float) -> np.ndarray:
    return images_of(apply_vmapped(planes_of(PIXELS), the_same_for_all(number, level), FILL_COLOR))


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
        ours = apply_to_all(OPERATIONS.index(name), level / 10).astype(int)
        theirs = np.stack([EXPECTED[name](photo, level / 10) for photo in PHOTOS]).astype(int)
        difference = np.abs(ours - theirs)
        assert difference.max() <= 1, level
        assert (difference > 0).mean() <= DIFFERING[name], level


def test_all_fifteen_operations_are_tested():
    assert len(set(OPERATIONS)) == len(OPERATIONS) == 15
    assert set(EXPECTED) == set(OPERATIONS)


def test_no_operation_changes_nothing():
    np.testing.assert_array_equal(apply_to_all(NO_OPERATION, 0.9), PIXELS)


def test_layers_apply_one_after_the_other():
    """One image after the other, as on CPUs, is the same as all at once."""
    operations = draw(jax.random.split(jax.random.key(3), 12), 9.0)
    numbers = operations.number
    assert ((numbers != NO_OPERATION).all(1) & (numbers[:, 0] != numbers[:, 1])).any()
    photos = planes_of(PIXELS[jnp.arange(12) % len(PIXELS)])
    first, second = (jax.tree.map(lambda x, layer=layer: x[:, layer], operations) for layer in range(2))
    expected = apply_vmapped(apply_vmapped(photos, first, FILL_COLOR), second, FILL_COLOR)
    differs = np.asarray(apply_in_turn(photos, operations, FILL_COLOR)) != np.asarray(expected)
    # The two round the coordinates of warps differently, which shows in a pixel or two.
    assert not differs[~np.isin(numbers, WARP_NUMBERS).any(1)].any() and differs.mean() < 1e-4


def test_what_is_drawn():
    operations, levels, *_ = draw(jax.random.split(jax.random.key(0), 6000), 9.0)
    assert operations.shape == levels.shape == (6000, 2)
    shares = np.bincount(operations.ravel(), minlength=16) / operations.size
    np.testing.assert_allclose(shares[:15], 1 / 30, atol=0.008)  # Five standard deviations.
    assert shares[NO_OPERATION] == pytest.approx(0.5, abs=0.025)
    np.testing.assert_allclose((levels > 0).mean(0), 0.5, atol=0.035)
    amounts = 10 * np.abs(levels)
    np.testing.assert_allclose(np.quantile(amounts, [0.16, 0.5, 0.84]), [8.5, 9.0, 9.5], atol=0.03)
    assert amounts.max() == 10 and (amounts == 10).mean() == pytest.approx(0.0228, abs=0.007)
    for values in (operations == NO_OPERATION, operations, amounts, levels > 0):  # The layers are independent,
        assert abs(np.corrcoef(values[:, 0], values[:, 1])[0, 1]) < 0.07
    assert abs(np.corrcoef(operations.ravel(), amounts.ravel())[0, 1]) < 0.05  # and so are kind and level.
    assert np.abs(draw(jax.random.split(jax.random.key(1), 6000), 0.1).level).min() == 0
