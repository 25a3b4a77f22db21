import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small import TINY

import gcvit_flax
from gcvit_flax.config import level_grids
from gcvit_flax.model.convs import ReduceSize
from gcvit_flax.visualize.grad_cam import draw_heat_map, grad_cam


@pytest.fixture(scope="module")
def network():
    """A model for images of any size, whose last map has 3x2 positions at 96x64 px, and parameters far from zero."""
    model = gcvit_flax.create_model(TINY, pad_to_windows=True)
    rng = np.random.default_rng(0)
    params = gcvit_flax.init_params(model, jax.random.key(0))
    return model, {"params": jax.tree.map(lambda x: x + rng.normal(0, 0.3, x.shape).astype(x.dtype), params)}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(2, 96, 64, 3)).astype(np.float32)


def head(params: dict, last: np.ndarray) -> np.ndarray:
    """Logits of maps (B, h, w, C) in float64: layer norm, mean, dense; written from the paper's figure 2."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    centered = last - last.mean(-1, keepdims=True)
    normed = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5)
    pooled = (normed * params["norm"]["scale"] + params["norm"]["bias"]).mean((1, 2))
    return pooled @ params["head"]["kernel"] + params["head"]["bias"]


def test_grad_cam_is_that_of_finite_differences(network, images):
    """A channel's weight, the mean gradient over its map, is the logit's change when the whole map is raised."""
    model, variables = network
    last = jax.jit(lambda images: model.apply(variables, images, method="features")[-1])(images)
    last, step = np.asarray(last, np.float64), 1e-5
    logits = head(variables["params"], last)
    expected = np.zeros((2, 3, 3, 2))  # image, class, height, width
    for channel in range(last.shape[-1]):
        rise = np.where(np.arange(last.shape[-1]) == channel, step, 0)
        gain = (head(variables["params"], last + rise) - head(variables["params"], last - rise)) / (2 * step)
        expected += (gain / 6)[..., None, None] * last[..., channel][:, None]
    expected = np.maximum(expected, 0)
    assert 0.2 < (expected > 0).mean() < 0.9, "this test sees nothing of the relu"

    for classes in ([0, 1], [2, 0]):
        found = grad_cam(model, variables, images, classes)
        assert found.shape == (2, 3, 2) and found.dtype == np.float32
        np.testing.assert_allclose(found, expected[[0, 1], classes], atol=1e-4 * expected.max())
    best = logits.argmax(-1)
    np.testing.assert_allclose(grad_cam(model, variables, images), expected[[0, 1], best], atol=1e-4 * expected.max())


@pytest.mark.parametrize("level", [0, 1, 2])
def test_evidence_at_lower_levels_is_that_of_the_layers_above(network, images, level):
    """The rest of the network is put together from its modules, and differentiated with respect to the level's map."""
    model, variables = network
    params = variables["params"][f"levels_{level}"]["downsample"]
    downsample = ReduceSize(TINY.dims[level + 1], jnp.float32)

    def logits(values):
        x = downsample.apply({"params": params}, values)
        for number in range(level + 1, 4):
            features, x = model.apply(
                variables, x, method=lambda module, x, number=number: module.levels[number](x, None, train=False)
            )
        return model.apply(variables, features, method="classify")

    values = jax.jit(lambda images: model.apply(variables, images, method="features")[level])(images)
    gradients = jax.jit(jax.grad(lambda values: logits(values)[jnp.arange(2), jnp.array([2, 0])].sum()))(values)
    expected = np.maximum((np.mean(gradients, (1, 2), keepdims=True) * values).sum(-1), 0)
    assert 0.05 < (expected > 0).mean() < 0.95, "this test sees nothing of the relu"
    for same in (model, model.clone(remat=True)):
        found = grad_cam(same, variables, images, [2, 0], level)
        assert found.shape == (2, *level_grids((96, 64))[level])
        np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())


def test_classes_that_the_model_does_not_have_are_refused(network, images):
    model, variables = network
    for classes, message in (
        ([0, 3], r"from 0 to 2, the model's, got \[0, 3\]"),
        ([-1, 0], r"from 0 to 2"),
        ([0], r"2 ints, one per image, got int64 \(1,\)"),
        ([0.5, 1.0], "2 ints, one per image, got float64"),
    ):
        with pytest.raises(gcvit_flax.UserError, match=message):
            grad_cam(model, variables, images, classes)
    with pytest.raises(gcvit_flax.UserError, match="the network has no level 4: its levels are 0 to 3"):
        grad_cam(model, variables, images, level=4)
    headless = gcvit_flax.create_model(TINY, num_classes=0)
    with pytest.raises(gcvit_flax.UserError, match="has no head"):
        grad_cam(headless, variables, images)


def test_a_heat_map_has_the_upright_images_size(network, tmp_path):
    model, variables = network
    exif = Image.Exif()
    exif[0x0112] = 6  # Rotated by 90 degrees.
    Image.effect_noise((70, 40), 90).save(tmp_path / "photo.jpg", exif=exif)
    draw_heat_map(model, variables, tmp_path / "photo.jpg", tmp_path / "seen.png")
    assert Image.open(tmp_path / "seen.png").size == (40, 70)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(gcvit_flax.UserError, match=r"folder\.png cannot be written"):
        draw_heat_map(model, variables, tmp_path / "photo.jpg", tmp_path / "folder.png")
    assert not list(tmp_path.glob("*.partial"))
