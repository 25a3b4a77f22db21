import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import TINY, random_variables

import gcvit_flax
from gcvit_flax import inference
from gcvit_flax.model.fuse import narrow_kernels


@pytest.mark.parametrize("batch", [1, 8])
def test_predictor_gives_the_models_logits_in_the_images_order(batch, monkeypatch):
    monkeypatch.setattr(inference, "_PIXELS_AT_A_TIME", 2 * 32 * 32)  # Four images per device then go in two parts.
    model = gcvit_flax.create_model(TINY)
    params = gcvit_flax.init_params(model, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + rng.normal(0, 0.3, x.shape).astype(x.dtype), params)
    images = rng.normal(size=(batch, 32, 32, 3)).astype(np.float32)

    predictor = gcvit_flax.Predictor(model, {"params": params})
    logits, expected = predictor(images), jax.jit(model.apply)({"params": params}, images)
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()
    assert len(logits.sharding.device_set) == len(predictor.devices(batch)) == (2 if batch == 8 else 1)
    assert batch == 1 or np.abs(expected[0] - expected[1]).max() > 1e-2 * np.abs(expected).max()


@pytest.mark.parametrize("method", ["embed", lambda network, images: network.features(images)[1]])
def test_predictor_gives_other_outputs_too(method, monkeypatch):
    monkeypatch.setattr(inference, "_PIXELS_AT_A_TIME", 2 * 32 * 32)
    model, variables = gcvit_flax.create_model(TINY), random_variables(TINY)
    images = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype(np.float32)
    found = gcvit_flax.Predictor(model, variables, method)(images)
    expected = jax.jit(lambda images: model.apply(variables, images, method=method))(images)
    assert found.shape == expected.shape and np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_all_parts_of_a_cpu_share_one_copy_of_the_parameters():
    predictor = gcvit_flax.Predictor(gcvit_flax.create_model(TINY), random_variables(TINY))
    places = []
    for batch in (1, 2):
        predictor(np.zeros((batch, 32, 32, 3), np.float32))
        assert len(predictor.devices(batch)) == batch
    for copy in predictor._copies.values():
        for leaf in jax.tree.leaves(copy):
            places.append({shard.data.unsafe_buffer_pointer() for shard in leaf.addressable_shards})
    one, two = places[: len(places) // 2], places[len(places) // 2 :]
    assert one == two and all(len(addresses) == 1 for addresses in one)


@pytest.mark.parametrize("change", [lambda params: params, lambda params: {"params": params | {"norm": {}}}])
def test_parameters_of_another_kind_are_refused(change):
    variables = change(random_variables(TINY)["params"])
    with pytest.raises(gcvit_flax.UserError, match=r'expected {"params": parameters}|2 missing: norm/bias, norm/scale'):
        gcvit_flax.Predictor(gcvit_flax.create_model(TINY), variables)


def test_a_bfloat16_model_computes_in_float32_with_narrow_kernels_on_a_cpu():
    model, variables = gcvit_flax.create_model(TINY), random_variables(TINY)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    narrow, kernels = narrow_kernels(*gcvit_flax.fuse_parameters(model, variables))
    expected, exact = jax.jit(narrow.apply)(kernels, images), jax.jit(model.apply)(variables, images)
    found = gcvit_flax.Predictor(model.clone(dtype=jnp.bfloat16), variables)(images)
    assert np.abs(found - expected).max() < 0.1 * np.abs(exact - expected).max()
