import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small import TINY

from gcvit_flax.model.gcvit import create_model
from gcvit_flax.model.init import abstract_params
from gcvit_flax.training.optim import learning_rate_scales, make_optimizer
from gcvit_flax.training.train_config import TrainConfig

DEPTHS = (1, 1, 1, 1)
PARAMS = {
    "patch_embed": {"proj": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([0.5])}},
    "norm": {"scale": jnp.array([2.0])},
    "head": {"kernel": jnp.array([[3.0, 4.0]]), "bias": jnp.array([-1.0, 1.0])},
}
GRADS = jax.tree.map(lambda x: 0.1 * x, PARAMS)


def first_update(config: TrainConfig):
    """The first update, and the optimizer's first state."""
    optimizer = make_optimizer(config, PARAMS, DEPTHS)
    state = optimizer.init(PARAMS)
    return optimizer.update(GRADS, state, PARAMS)[0], state


@pytest.mark.parametrize("epsilon", [1e-8, 1e-2])
def test_the_update_is_adamw(epsilon):
    config = TrainConfig(weight_decay=0.1, clip_norm=None, adam_epsilon=epsilon)
    kernels = jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", PARAMS)
    theirs = optax.adamw(1e-2, weight_decay=0.1, mask=kernels, eps=epsilon)
    expected, _ = theirs.update(GRADS, theirs.init(PARAMS), PARAMS)
    update, _ = first_update(config)
    for a, b in zip(jax.tree.leaves(update), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(-1e-2 * a, b, rtol=1e-6)


NO_DECAY = {"weight_decay": 0.0, "clip_norm": None}


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({"optimizer": "lamb"}, optax.lamb(1.0)),
        ({"optimizer": "lamb", "betas": (0.8, 0.9), "adam_epsilon": 1e-3}, optax.lamb(1.0, 0.8, 0.9, 1e-3)),
        ({"optimizer": "lion"}, optax.lion(1.0, weight_decay=0.0)),
        ({"optimizer": "lion", "betas": (0.5, 0.6)}, optax.lion(1.0, 0.5, 0.6, weight_decay=0.0)),
        ({"optimizer": "sgd"}, optax.sgd(1.0, momentum=0.9)),
        ({"optimizer": "sgd", "momentum": 0.5}, optax.sgd(1.0, momentum=0.5)),
        ({"betas": (0.5, 0.6)}, optax.adam(1.0, 0.5, 0.6)),
    ],
)
def test_other_optimizers_and_betas_are_optaxs(options, theirs):
    """Two updates, of which the second shows the moments' decay."""
    optimizer = make_optimizer(TrainConfig(**NO_DECAY, **options), PARAMS, DEPTHS)
    state, their_state = optimizer.init(PARAMS), theirs.init(PARAMS)
    for factor in (1.0, -0.05):  # With which Lion's signs depend on both.
        grads = jax.tree.map(lambda x, factor=factor: factor * x, GRADS)
        update, state = optimizer.update(grads, state, PARAMS)
        expected, their_state = theirs.update(grads, their_state, PARAMS)
        for a, b in zip(jax.tree.leaves(update), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(-a, b, rtol=2e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "lion", "sgd"])
def test_weight_decay_is_decoupled_in_all_optimizers(optimizer):
    decayed, _ = first_update(TrainConfig(optimizer=optimizer, clip_norm=None, weight_decay=0.5))
    plain, _ = first_update(TrainConfig(optimizer=optimizer, **NO_DECAY))
    head = jax.tree.map(jnp.subtract, decayed["head"], plain["head"])
    np.testing.assert_allclose(head["kernel"], 0.5 * PARAMS["head"]["kernel"], rtol=1e-5)
    np.testing.assert_array_equal(head["bias"], 0)


def test_lamb_scales_decayed_updates_to_the_parameters_norm():
    update, _ = first_update(TrainConfig(optimizer="lamb", weight_decay=0.5))
    kernel = update["head"]["kernel"]
    assert np.linalg.norm(kernel) == pytest.approx(5, rel=1e-4)  # That of (3, 4).
    assert kernel[0, 1] / kernel[0, 0] == pytest.approx(3 / 2.5, rel=1e-4)  # (1, 1) + 0.5 (3, 4).


def test_gradients_are_clipped_to_the_global_norm():
    """Adam's first update does not change with the gradients' scale, but for its epsilon, which is large here."""
    scaled = jax.tree.map(lambda x: x * 0.05 / optax.tree.norm(GRADS), GRADS)
    for clip_norm, grads in ((0.05, scaled), (100.0, GRADS), (None, GRADS)):
        update, _ = first_update(TrainConfig(weight_decay=0.0, clip_norm=clip_norm, adam_epsilon=1.0))
        for a, grad in zip(jax.tree.leaves(update), jax.tree.leaves(grads), strict=True):
            np.testing.assert_allclose(a, grad / (jnp.abs(grad) + 1), rtol=1e-5)


def test_what_is_not_trained_neither_changes_nor_has_moments():
    update, state = first_update(TrainConfig(weight_decay=0.1, head_only=True))
    assert all(not np.any(x) for x in jax.tree.leaves([update["patch_embed"], update["norm"]]))
    assert all(np.all(x) for x in jax.tree.leaves(update["head"]))
    # Two moments of the head's kernel and bias, and the count.
    assert sum(x.size for x in jax.tree.leaves(state)) == 2 * (2 + 2) + 1


def test_weight_decay_spares_all_but_kernels():
    decayed, _ = first_update(TrainConfig(weight_decay=0.5))
    plain, _ = first_update(TrainConfig(weight_decay=0.0))
    added = jax.tree.map(jnp.subtract, decayed, plain)
    expected = jax.tree.map(jnp.zeros_like, PARAMS)
    for layer, name in ((expected["patch_embed"]["proj"], "patch_embed"), (expected["head"], "head")):
        layer["kernel"] = 0.5 * (PARAMS[name]["proj"] if name == "patch_embed" else PARAMS[name])["kernel"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), added, expected)
    # In the whole network, what is not called kernel is what the recipe spares.
    params = abstract_params(create_model(TINY, layer_scale=0.1))
    names = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    assert names - {"kernel"} == {"bias", "scale", "gamma1", "gamma2", "relative_position_bias_table"}


def test_the_learning_rate_decays_from_the_head_to_the_stem():
    model = create_model(TINY)  # Depths 2, 1, 1, 1: the stem, five blocks, and the head.
    scales = learning_rate_scales(abstract_params(model), model.config.depths, TrainConfig(layer_decay=0.5))
    found = {}
    for path, scale in jax.tree_util.tree_leaves_with_path(scales):
        found.setdefault("/".join(key.key for key in path[:2]), set()).add(scale)
    expected = {
        "patch_embed/proj": 6,
        "levels_0/q_global_gen": 5,
        "levels_0/blocks_0": 5,
        "levels_0/blocks_1": 4,
        "levels_0/downsample": 4,
        "levels_1/blocks_0": 3,
        "levels_2/downsample": 2,
        "levels_3/blocks_0": 1,
        "norm/scale": 0,
        "head/kernel": 0,
    }
    for name, blocks in expected.items():
        assert found[name] == {0.5**blocks}, name
    decayed, _ = first_update(TrainConfig(layer_decay=0.5))
    full, _ = first_update(TrainConfig())
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b / 2**5, rtol=1e-6), decayed["patch_embed"], full["patch_embed"]
    )
    jax.tree.map(np.testing.assert_array_equal, [decayed["norm"], decayed["head"]], [full["norm"], full["head"]])
