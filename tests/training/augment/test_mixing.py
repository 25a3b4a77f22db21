import jax
import numpy as np
import pytest

from gcvit_flax.errors import UserError
from gcvit_flax.training.augment.mixing import mix, random_box

SIZE = (20, 30)
# Every image is as bright as its number, so that what is left of it shows.
IMAGES = np.broadcast_to(np.arange(4, dtype=np.float32)[:, None, None, None], (4, *SIZE, 3))
TARGETS = np.eye(4, 5, dtype=np.float32)
KEYS = jax.random.split(jax.random.key(0), 2000)
MIXUP, CUTMIX = 0.2, 1.0

mix_often = jax.jit(jax.vmap(lambda key: mix(key, IMAGES, TARGETS, MIXUP, CUTMIX)))


@pytest.fixture(scope="module")
def mixed():
    """(2000, 4, 20, 30) brightnesses and (2000, 4, 5) targets, and where Mixup was drawn (2000,)."""
    images, targets = map(np.asarray, mix_often(KEYS))
    assert images.shape == (2000, *IMAGES.shape) and targets.shape == (2000, *TARGETS.shape)
    assert (images == images[..., :1]).all()
    brightness = images[..., 0]
    return brightness, targets, ((brightness[:, :2] > 0) & (brightness[:, :2] < 1)).any((1, 2, 3))


def test_partners_are_neighbors_and_shares_are_true(mixed):
    brightness, targets, _ = mixed
    np.testing.assert_allclose(targets.sum(-1), 1, atol=1e-6)
    share = targets[:, 0, 0]
    for own, partner in enumerate((1, 0, 3, 2)):
        np.testing.assert_allclose(targets[:, own, own], share, atol=1e-6)  # One share a step,
        np.testing.assert_allclose(targets[:, own, partner], 1 - share, atol=1e-6)
        expected = share * own + (1 - share) * partner
        np.testing.assert_allclose(brightness[:, own].mean((1, 2)), expected, atol=2e-5)  # which the pixels have too.


def test_mixup_and_cutmix_take_turns(mixed):
    brightness, targets, is_mixup = mixed
    assert is_mixup.mean() == pytest.approx(0.5, abs=0.06)
    np.testing.assert_allclose(np.ptp(brightness[is_mixup], axis=(2, 3)), 0, atol=1e-6)
    share = targets[is_mixup, 0, 0]
    assert share.mean() == pytest.approx(0.5, abs=0.06)
    assert share.var() == pytest.approx(1 / (4 * (2 * MIXUP + 1)), abs=0.015)  # That of beta(0.2, 0.2).


def test_nothing_is_mixed_once_it_is_off():
    often = jax.jit(jax.vmap(lambda key, active: mix(key, IMAGES, TARGETS, MIXUP, CUTMIX, active), (0, None)))
    images, targets = often(KEYS[:100], np.bool_(False))
    np.testing.assert_array_equal(images, np.broadcast_to(IMAGES, images.shape))
    np.testing.assert_array_equal(targets, np.broadcast_to(TARGETS, targets.shape))
    on = mix_often(KEYS[:100])
    jax.tree.map(np.testing.assert_array_equal, often(KEYS[:100], np.bool_(True)), on)


def test_cutmix_swaps_a_box(mixed):
    brightness, _, is_mixup = mixed
    boxes = brightness[~is_mixup, 0].astype(bool)
    rows, columns = boxes.any(2), boxes.any(1)
    np.testing.assert_array_equal(boxes, rows[:, :, None] & columns[:, None, :])
    for first, other in ((0, 1), (1, 0), (2, 3), (3, 2)):
        np.testing.assert_array_equal(brightness[~is_mixup, first], np.where(boxes, other, first))


def test_boxes_have_the_area_unless_the_border_cuts_them():
    areas = np.linspace(0, 1, 11, dtype=np.float32)
    boxes = np.asarray(
        jax.jit(jax.vmap(jax.vmap(lambda key, area: random_box(key, SIZE, area), (0, None)), (None, 0)))(
            KEYS[:500], areas
        )
    )[..., 0]
    rows, columns = boxes.any(3).sum(2), boxes.any(2).sum(2)  # (areas, keys)
    for lines, side in ((rows, SIZE[0]), (columns, SIZE[1])):
        whole = side * np.sqrt(areas)
        assert (lines <= whole[:, None]).all() and (lines.max(1) > whole - 2).all()  # Even, and thus up to 2 less.
        assert (lines >= whole[:, None] / 2 - 2).all()  # The center lies inside.
    small = boxes[1].mean(0)
    assert small[2:-2, 2:-2].min() > 0.03 and small.max() < 0.2  # Anywhere: 0.1 on average away from the border.
    assert (boxes[-1].all((1, 2))).sum() < 20


def test_halves_mix_as_the_whole_does(mixed):
    mix_half = jax.jit(lambda key, images, targets: mix(key, images, targets, MIXUP, CUTMIX))
    for key, *whole in zip(KEYS[:6], *mixed[:2], strict=False):
        parts = [mix_half(key, IMAGES[half], TARGETS[half]) for half in (slice(2), slice(2, 4))]
        images, targets = map(np.concatenate, zip(*parts, strict=True))
        np.testing.assert_allclose(images[..., 0], whole[0], atol=1e-6)
        np.testing.assert_allclose(targets, whole[1], atol=1e-6)


def test_cutmix_alone():
    images, _ = jax.jit(jax.vmap(lambda key: mix(key, IMAGES[:2], TARGETS[:2], 0.0, 0.5)))(KEYS[:64])
    assert np.isin(images, (0, 1)).all()
    assert (images[:, 0] != 0).any((1, 2, 3)).mean() > 0.5


def test_none_at_all():
    images, targets = mix(KEYS[0], IMAGES[:3], TARGETS[:3], 0.0, 0.0)
    assert (images == IMAGES[:3]).all() and (targets == TARGETS[:3]).all()


def test_an_odd_share_of_the_batch_is_refused():
    with pytest.raises(UserError, match="even number of images at a time, got 3"):
        jax.eval_shape(lambda images, targets: mix(KEYS[0], images, targets, 0.8, 1.0), IMAGES[:3], TARGETS[:3])
