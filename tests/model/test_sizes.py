"""Both ways to images of any size: two extremes, and for `make soak` thirty random sizes of each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import TINY

from gcvit_flax.model import level
from gcvit_flax.model.gcvit import create_model
from gcvit_flax.model.init import init_params
from gcvit_flax.weights.model_folder import load_model, save_model


def _random_sizes(seed, step):
    """Thirty sizes (height, width) for `make soak`, from 32 to 640 in multiples of `step`."""
    sizes = step * np.random.default_rng(seed).integers(32 // step, 640 // step + 1, (30, 2))
    return [pytest.param(tuple(map(int, size)), marks=pytest.mark.soak) for size in sizes]


ANY_SIZE = [(33, 640), *_random_sizes(0, 1)]
FITTING = [(640, 32), *_random_sizes(1, 32)]


def parameters(model):
    rng = np.random.default_rng(1)
    add = lambda leaf: leaf + rng.normal(0, 0.15, leaf.shape).astype("f")  # noqa: E731
    return {"params": jax.tree.map(add, init_params(model, jax.random.key(1)))}


def check(apply, model, size):
    """Finite, of the right shapes, and each image's results its own; `apply` gives logits and maps."""
    images = np.random.default_rng(2).normal(size=(3, *size, 3)).astype("f")
    (logits, maps), (others, other_maps) = apply(images[:2]), apply(images[[0, 2]])
    assert logits.shape == (2, model.config.num_classes) and np.isfinite(logits).all()
    grid = [-(-side // 4) for side in size]
    for index, (features, same) in enumerate(zip(maps, other_maps, strict=True)):
        assert features.shape == (2, *grid, model.config.dims[index])
        np.testing.assert_allclose(features[0], same[0], rtol=1e-5, atol=1e-5)
        grid = [-(-side // 2) for side in grid]
    np.testing.assert_allclose(logits[0], others[0], rtol=1e-5, atol=1e-5)
    assert np.abs(logits[1] - others[1]).max() > 1e-3


@pytest.mark.parametrize("size", FITTING, ids=str)
def test_windows_that_follow_the_image(size):
    model = create_model(TINY, image_size=size)
    assert model.config.window_size[2] == (size[0] // 16, size[1] // 16)
    variables = parameters(model)

    @jax.jit
    def apply(images):
        return model.apply(variables, images), model.apply(variables, images, method="features")

    check(apply, model, size)


@pytest.mark.parametrize("size", ANY_SIZE, ids=str)
def test_images_padded_to_windows(size, monkeypatch):
    model = create_model(TINY, pad_to_windows=True)
    variables, pad = parameters(model), level.pad

    @jax.jit
    def apply(images, rubbish=0.0):
        def pad_with_rubbish(x, window):
            zeros, mask = pad(x, window)
            pattern = rubbish * jnp.arange(x.shape[-1])  # Equal values would be nothing to LayerNorm.
            return jnp.where(pad(jnp.ones_like(x), window)[0] > 0, zeros, pattern), mask

        monkeypatch.setattr(level, "pad", pad_with_rubbish)
        return model.apply(variables, images), model.apply(variables, images, method="features")

    check(apply, model, size)
    images = np.random.default_rng(2).normal(size=(2, *size, 3)).astype("f")
    for clean, dirty in zip(*map(jax.tree.leaves, (apply(images, 0.0), apply(images, 50.0))), strict=True):
        np.testing.assert_allclose(dirty, clean, rtol=1e-5, atol=1e-5)


def test_three_ways_to_224_px_agree(tmp_path):
    """As it is, loaded for that size with windows that follow it, and padded; all three from one model folder."""
    plain = create_model(TINY, image_size=224)
    save_model(tmp_path / "model", plain, parameters(plain))
    images = np.random.default_rng(3).normal(size=(1, 224, 224, 3)).astype("f")
    ways = [{}, {"image_size": (224, 224)}, {"pad_to_windows": True}]
    models = [load_model(tmp_path / "model", **way) for way in ways]
    expected, *others = (np.asarray(jax.jit(model.apply)(variables, images)) for model, variables in models)
    for logits in others:
        assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()
