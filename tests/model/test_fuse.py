import jax
import numpy as np
import pytest
from small import TINY

import gcvit_flax


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
