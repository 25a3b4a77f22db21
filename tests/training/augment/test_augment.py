import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from PIL import Image

from gcvit_flax.config import Preprocessing
from gcvit_flax.data.preprocess import normalize
from gcvit_flax.training.augment.augment import augment, jitter_colors
from gcvit_flax.training.augment.erasing import draw_erasing, erase, erase_one
from gcvit_flax.training.train_config import TrainConfig

PHOTO = np.asarray(Image.fromarray(skimage.data.chelsea()).resize((40, 32)))
NOTHING = TrainConfig(flip=False, color_jitter=0.0)
EVERYTHING = TrainConfig(rand_augment=9.0, random_erasing=0.5)
KEY = jax.random.key(0)


def augment_as(config: TrainConfig):
    return jax.jit(lambda key, images, index: augment(key, images, index, Preprocessing(), config))


@pytest.fixture(scope="module", params=["everything", "jitter"])
def augmented(request):
    """A jitted function of key, images and index, with RandAugment and erasing or with color jitter."""
    return augment_as(EVERYTHING if request.param == "everything" else TrainConfig(color_jitter=0.4))


def test_augmentation_depends_on_key_and_place_alone(augmented):
    images = np.stack([np.roll(PHOTO, 5 * i, 1) for i in range(4)])
    index = np.arange(4, dtype=np.int32)
    expected = augmented(KEY, images, index)
    assert expected.shape == images.shape and expected.dtype == jnp.float32
    np.testing.assert_array_equal(augmented(KEY, images, index), expected)
    # Another device's part, in another order.
    order = np.array([2, 3, 1, 0])
    np.testing.assert_array_equal(augmented(KEY, images[order], index[order]), expected[order])
    assert differing(augmented(jax.random.key(1), images, index), expected).any()
    twins = augmented(KEY, np.stack([PHOTO] * 4), index + 100)
    assert differing(twins[:-1], twins[1:]).any()


def differing(a, b) -> np.ndarray:
    return np.abs(np.asarray(a) - np.asarray(b)).max((1, 2, 3)) > 0.1


def test_without_options_images_are_only_normalized():
    images = PHOTO[None]
    np.testing.assert_allclose(
        augment_as(NOTHING)(KEY, images, jnp.arange(1)), normalize(images, Preprocessing()), atol=1e-6
    )


def test_rand_augment_replaces_color_jitter():
    def program(**options):
        config = TrainConfig(**options)
        arguments = (KEY, PHOTO[None], jnp.arange(1))
        return str(jax.make_jaxpr(lambda *arguments: augment(*arguments, Preprocessing(), config))(*arguments))

    assert program(rand_augment=9.0, color_jitter=0.4) == program(rand_augment=9.0, color_jitter=0.0)
    assert program(rand_augment=0.0, color_jitter=0.4) != program(rand_augment=0.0, color_jitter=0.0)


def test_flip_mirrors_half_of_the_images():
    images = np.broadcast_to(PHOTO, (400, *PHOTO.shape))
    flipped = augment_as(TrainConfig(color_jitter=0.0))(KEY, images, jnp.arange(400))
    image = normalize(PHOTO, Preprocessing())
    mirrored = differing(flipped, image[None])
    np.testing.assert_allclose(flipped[mirrored], np.broadcast_to(image[:, ::-1], flipped[mirrored].shape), atol=1e-6)
    assert 0.4 < mirrored.mean() < 0.6


def test_color_jitter_keeps_the_range_and_means_well():
    config = TrainConfig(flip=False, color_jitter=0.4)
    images = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    jittered = augment_as(config)(KEY, np.broadcast_to(images, (200, 8, 8, 3)), jnp.arange(200))
    mean, std = np.float32(Preprocessing().mean), np.float32(Preprocessing().std)
    jittered = 255 * (jittered * std + mean)
    assert jittered.min() >= -0.01 and jittered.max() <= 255.01
    brightness = jittered.mean((1, 2, 3)) / images.mean()
    assert 0.55 < brightness.min() < 0.75 and 1.1 < brightness.max() < 1.45
    planes = np.moveaxis(images, -1, 0)
    np.testing.assert_allclose(jitter_colors(planes, jnp.ones(3)), planes, atol=0.01)


@pytest.fixture(scope="module")
def erased():
    """3000 gray images (24, 36, 3) of value 50, of which a share of 0.4 is to lose a rectangle to noise."""
    return np.asarray(erase_gray(jax.random.split(KEY, 3000)))


@jax.jit
def erase_gray(keys):
    erasing = jax.vmap(lambda key: draw_erasing(key, (24, 36), 0.4))(keys)
    return erase(jnp.full((len(keys), 24, 36, 3), 50.0), erasing)


def test_erasing_takes_its_share_of_rectangles(erased):
    gone = (erased != 50).all(-1)
    assert ((erased == 50).all(-1) | gone).all()
    assert gone.any((1, 2)).mean() == pytest.approx(0.4, abs=0.04)
    gone = gone[gone.any((1, 2))]
    rows, columns = gone.any(2), gone.any(1)
    np.testing.assert_array_equal(gone, rows[:, :, None] & columns[:, None, :])
    for lines in (rows, columns):  # Each an interval, anywhere.
        assert ((np.diff(lines.astype(int), axis=1) == 1).sum(1) + lines[:, 0] == 1).all()
        assert lines[:, 0].any() and lines[:, -1].any()
        assert lines.mean(0) == pytest.approx(lines.mean(0)[::-1], abs=0.08)
    rows, columns = rows.sum(1), columns.sum(1)
    area = rows * columns / (24 * 36)
    assert area.min() == pytest.approx(0.02, abs=0.007) and area.max() == pytest.approx(1 / 3, abs=0.02)
    assert area.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.02)
    aspect = rows / columns
    assert 0.2 < aspect.min() < 0.4 and 2.5 < aspect.max() < 4
    assert np.median(aspect) == pytest.approx(1, abs=0.2)


def test_erasing_all_at_once_is_the_same(erased):
    """As on GPUs and TPUs; `erase` takes one image after the other on a CPU."""
    erasing = jax.vmap(lambda key: draw_erasing(key, (24, 36), 0.4))(jax.random.split(KEY, 3000))
    np.testing.assert_allclose(
        jax.jit(jax.vmap(erase_one))(jnp.full((3000, 24, 36, 3), 50.0), erasing), erased, atol=1e-6
    )


def test_erasing_fills_with_standard_normal_noise(erased):
    noise = erased[erased != 50].reshape(-1, 3)
    assert noise.mean() == pytest.approx(0, abs=0.02) and noise.std() == pytest.approx(1, abs=0.02)
    assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.02
    assert np.abs(np.corrcoef(noise[:-1, 0], noise[1:, 0])[0, 1]) < 0.02  # Each pixel has its own.


def test_erasing_comes_after_normalization():
    config = TrainConfig(flip=False, color_jitter=0.0, random_erasing=1.0)
    images = np.stack([PHOTO] * 16)
    noise = np.asarray(augment_as(config)(KEY, images, jnp.arange(16)))
    gone = np.abs(noise - normalize(images, Preprocessing())) > 1e-4
    assert noise[gone].mean() == pytest.approx(0, abs=0.03) and noise[gone].std() == pytest.approx(1, abs=0.03)
