import jax
import numpy as np
import optax
import pytest
from small import TINY

import gcvit_flax


def random_params(module, images):
    """Without compiling what would draw them."""
    rng, shapes = np.random.default_rng(1), jax.eval_shape(module.init, jax.random.key(0), images)["params"]
    return jax.tree.map(lambda leaf: 0.2 * rng.normal(size=leaf.shape).astype("f"), shapes)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(2, 40, 72, 3)).astype("f")


def test_maps_are_those_of_the_model_after_a_norm(images):
    model = gcvit_flax.create_model(TINY, pad_to_windows=True)
    backbone = gcvit_flax.Backbone(model, levels=(1, 3))
    params = random_params(backbone, images)
    assert set(params) == {"model", "norm_1", "norm_3"}

    classifier = random_params(model, images)  # With norm and head, which a backbone ignores.
    bare = gcvit_flax.Backbone(model, levels=(1, 3), norms=False)

    @jax.jit
    def run(params):
        own = {"params": {"model": params["model"]}}
        maps = model.apply({"params": params["model"]}, images, method="features")
        return backbone.apply({"params": params}, images), bare.apply(own, images), maps

    maps, unnormed, expected = run(params | {"model": classifier})
    for level, normed, x in zip((1, 3), maps, unnormed, strict=True):
        np.testing.assert_allclose(x, expected[level], rtol=1e-6)
        norm = params[f"norm_{level}"]
        centered = x - x.mean(-1, keepdims=True)
        x = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5) * norm["scale"] + norm["bias"]
        np.testing.assert_allclose(normed, x, atol=1e-5)
    assert [m.shape for m in maps] == [(2, 5, 9, 16), (2, 2, 3, 64)]


def test_frozen_stages_do_not_learn(images):
    model = gcvit_flax.create_model(TINY, pad_to_windows=True, drop_path_rate=0.5, dropout_rate=0.2)
    backbone = gcvit_flax.Backbone(model, frozen_stages=2)
    params = random_params(backbone, images)
    rngs = {"dropout": jax.random.key(1)}

    def loss_and_maps(params):
        maps = backbone.apply({"params": params}, images, train=True, rngs=rngs)
        return sum((m * np.arange(m.shape[-1])).sum() for m in maps), maps

    grads, maps = jax.jit(jax.grad(loss_and_maps, has_aux=True))(params)
    moving = {name for name, g in grads["model"].items() if optax.tree.norm(g) > 0}
    still = {"patch_embed", "levels_0", "levels_1"}
    assert moving == {"levels_2", "levels_3"}
    mask = backbone.trainable(params)
    assert {name for name, tree in mask["model"].items() if all(jax.tree.leaves(tree))} == moving
    assert {name for name, tree in mask["model"].items() if not any(jax.tree.leaves(tree))} == still
    assert all(mask["norm_0"].values())

    evaluated = jax.jit(backbone.apply)({"params": params}, images)
    same = [np.allclose(a, b, atol=1e-4) for a, b in zip(maps, evaluated, strict=True)]
    assert same == [True, True, False, False]  # Nothing random in what is frozen.


def test_the_stem_alone_can_be_frozen(images):
    backbone = gcvit_flax.Backbone(gcvit_flax.create_model(TINY, pad_to_windows=True), levels=(0,), frozen_stages=0)
    params = random_params(backbone, images)
    weights = np.arange(8)  # For the sum of a LayerNorm is constant.
    grads = jax.jit(jax.grad(lambda p: (backbone.apply({"params": p}, images)[0] * weights).sum()))(params)["model"]
    assert optax.tree.norm(grads["patch_embed"]) == 0 < optax.tree.norm(grads["levels_0"])
    mask = backbone.trainable(params)["model"]
    assert [name for name, tree in mask.items() if not all(jax.tree.leaves(tree))] == ["patch_embed"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"levels": (0, 4)}, r"levels must be some of 0 to 3 in rising order, got \(0, 4\)"),
        ({"levels": (2, 1)}, "rising order"),
        ({"levels": ()}, "rising order"),
        ({"frozen_stages": 5}, r"from -1 \(nothing\) to 4 \(all levels\), got 5"),
    ],
)
def test_levels_that_are_not_there_are_named(fields, message, images):
    backbone = gcvit_flax.Backbone(gcvit_flax.create_model(TINY), **fields)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(backbone.init, jax.random.key(0), images[:, :32, :32])
