import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import TINY, random_variables

import gcvit_flax
from gcvit_flax.export_stablehlo import MOST_BYTES
from gcvit_flax.model import position_bias
from gcvit_flax.model.fuse import narrow_kernels
from gcvit_flax.model.tree import parameter_shapes


@pytest.mark.parametrize("bias", ["per_head", "flattened"])
@pytest.mark.parametrize("fields", [{"layer_scale": 0.5}, {"qk_scale": 0.3, "qkv_bias": False}], ids=["gamma", "scale"])
def test_fusing_changes_no_logit(bias, fields, tmp_path):
    model = gcvit_flax.create_model(TINY, num_heads=(2, 2, 2, 4), relative_position_bias=bias, **fields)
    params = gcvit_flax.init_params(model, jax.random.key(0))
    rng = np.random.default_rng(0)
    # So that no gamma is like another, no bias 0 and every head's attention its own.
    params = jax.tree.map(lambda x: x + rng.normal(0, 0.3, x.shape).astype(x.dtype), params)
    images = rng.normal(size=(2, 32, 32, 3)).astype(np.float32)

    fused, variables = gcvit_flax.fuse_parameters(model, {"params": params})
    expected, actual = jax.jit(model.apply)({"params": params}, images), jax.jit(fused.apply)(variables, images)
    assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()
    names = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(variables)}
    assert not names & {"gamma1", "gamma2", "relative_position_bias_table"}
    assert fused.fused and fused.config == model.config

    again, twice = gcvit_flax.fuse_parameters(fused, variables)
    jax.tree.map(np.testing.assert_array_equal, twice, variables)
    with pytest.raises(gcvit_flax.UserError, match="fuse it after loading"):
        gcvit_flax.save_model(tmp_path / "fused", again, twice)
    assert not (tmp_path / "fused").exists()


@pytest.mark.parametrize("bias", ["per_head", "flattened"])
def test_large_biases_stay_tables(bias, monkeypatch):
    monkeypatch.setattr(position_bias, "MOST_EXPANDED_BYTES", 2000)  # The first two levels have more.
    model = gcvit_flax.create_model(TINY, relative_position_bias=bias)
    variables = random_variables(model.config)
    fused, fused_variables = gcvit_flax.fuse_parameters(model, variables)
    names = {(path[1].key, path[-1].key) for path, _ in jax.tree_util.tree_leaves_with_path(fused_variables)}
    assert {level for level, name in names if name == "relative_position_bias_table"} == {"levels_0", "levels_1"}
    assert {level for level, name in names if name == "relative_position_bias"} == {"levels_2", "levels_3"}
    images = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)
    expected, actual = jax.jit(model.apply)(variables, images), jax.jit(fused.apply)(fused_variables, images)
    assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", gcvit_flax.VARIANTS)
def test_every_variant_can_be_exported(name):
    """With its biases, it fits a file of jax.export."""
    config = gcvit_flax.VARIANTS[name]
    size = 4 * sum(math.prod(leaf.shape) for leaf in parameter_shapes(config).values())
    for level, (height, width) in enumerate(config.window_size):
        if position_bias.is_expanded(config, level):
            size += 4 * config.depths[level] * config.num_heads[level] * (height * width) ** 2
    assert size < 0.9 * MOST_BYTES


@pytest.mark.parametrize(("side", "resizing"), [(32, 0), (45, 2)])  # Products that resize the global queries.
def test_narrow_kernels_round_the_operands_of_products_alone(side, resizing):
    model = gcvit_flax.create_model(TINY, pad_to_windows=True, layer_scale=0.5)
    variables = random_variables(model.config)
    images = np.random.default_rng(0).normal(size=(2, side, side, 3)).astype(np.float32)
    narrow, kernels = narrow_kernels(*gcvit_flax.fuse_parameters(model, variables))
    types = {path[-1].key: leaf.dtype for path, leaf in jax.tree_util.tree_leaves_with_path(kernels)}
    assert narrow.dtype == jnp.float32 and types["bias"] == types["scale"] == types["relative_position_bias"] == "f4"
    expected = jax.jit(model.apply)(variables, images)

    def error(logits):
        return np.abs(logits - expected).max() / np.abs(expected).max()

    found = error(jax.jit(narrow.apply)(kernels, images))
    assert 1e-5 < found < 1e-2 and found < error(jax.jit(model.clone(dtype=jnp.bfloat16).apply)(variables, images))

    program = jax.jit(narrow.apply).lower(kernels, images).as_text()
    products = re.findall(r"stablehlo[.]dot_general.* : (.*)", program)
    wide = [types for types in products if not re.search(r"xbf16>, tensor<.*xbf16>\) -> tensor<.*xf32>", types)]
    assert len(products) > 50 and len(wide) == 1 + resizing
    assert wide[0].endswith(f"-> tensor<2x{TINY.num_classes}xf32>")  # The head's.
