"""The network inside Flax's transformations and tools."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import TINY

import gcvit_flax

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)


@pytest.fixture(scope="module")
def members():
    """A model, the parameters of three networks, and the logits of each."""
    model = gcvit_flax.create_model(TINY)
    params = [gcvit_flax.init_params(model, jax.random.key(seed)) for seed in range(3)]
    apply = jax.jit(model.apply)
    return model, params, jnp.stack([apply({"params": member}, IMAGES) for member in params])


def test_vmap_makes_an_ensemble(members):
    model, params, logits = members
    ensemble = nn.vmap(
        gcvit_flax.model.gcvit.GCViT,
        in_axes=None,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        axis_size=len(params),
    )(model.config)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    found = jax.jit(ensemble.apply)({"params": stacked}, IMAGES)
    np.testing.assert_allclose(found, logits, rtol=1e-5, atol=1e-5)


def test_scan_goes_through_an_ensemble(members):
    model, params, logits = members

    class Ensemble(nn.Module):
        @nn.compact
        def __call__(self, images):
            add = lambda network, total, _: (total + network(images), None)  # noqa: E731
            scan = nn.scan(add, variable_axes={"params": 0}, split_rngs={"params": True}, length=len(params))
            return scan(gcvit_flax.create_model(TINY, dtype=model.dtype), jnp.zeros(logits.shape[1:]), None)[0]

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    variables = jax.eval_shape(Ensemble().init, jax.random.key(0), IMAGES)
    (name,) = variables["params"]
    found = jax.jit(Ensemble().apply)({"params": {name: stacked}}, IMAGES)
    np.testing.assert_allclose(found, logits.sum(0), rtol=1e-5, atol=1e-5)


def test_nnx_bridge(members):
    model, (params, *_), (logits, *_) = members
    bridge = lambda: nnx.bridge.ToNNX(model, rngs=nnx.Rngs(0))  # noqa: E731
    graph, state, _ = nnx.split(nnx.eval_shape(lambda: bridge().lazy_init(IMAGES)), nnx.Param, ...)
    nnx.replace_by_pure_dict(state, params)
    network = nnx.merge(graph, state, nnx.state(bridge()))
    found = nnx.jit(lambda network, images: network(images))(network, IMAGES)
    np.testing.assert_allclose(found, logits, rtol=1e-5, atol=1e-5)


def test_intermediates(members):
    model, (params, *_), (logits, *_) = members
    apply = jax.jit(lambda params: model.apply({"params": params}, IMAGES, capture_intermediates=True))
    found, state = apply(params)
    np.testing.assert_allclose(found, logits, rtol=1e-5, atol=1e-5)
    intermediates = state["intermediates"]
    np.testing.assert_array_equal(intermediates["__call__"][0], found)
    assert intermediates["levels_0"]["blocks_0"]["attn"]["proj"]["__call__"][0].shape == (2, 4, 16, 8)


def test_tabulate(members):
    model, (params, *_), _ = members
    table = model.tabulate(jax.random.key(0), IMAGES, depth=1, console_kwargs={"width": 200})
    assert f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}" in table
