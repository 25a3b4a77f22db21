import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcvit_flax.model.attention import WindowAttention
from gcvit_flax.model.drop_path import drop_path_scales
from gcvit_flax.model.global_query import GlobalQueryGenerator
from gcvit_flax.model.position_bias import relative_position_bias, relative_position_index
from gcvit_flax.model.windows import merge, pad, partition


@pytest.mark.parametrize(("grid", "window"), [((8, 8), (4, 4)), ((6, 12), (3, 4)), ((2, 6), (2, 1))])
def test_merge_undoes_partition(grid, window):
    x = jnp.arange(2 * grid[0] * grid[1] * 3.0).reshape(2, *grid, 3)
    np.testing.assert_array_equal(merge(partition(x, window), window, grid), x)


def test_windows_and_tokens_are_row_major():
    x = jnp.arange(16).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(
        partition(x, (2, 2))[0, :, :, 0], [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    )


def test_pad_is_at_the_bottom_and_right():
    padded, mask = pad(jnp.ones((1, 3, 4, 1)), (2, 4))
    np.testing.assert_array_equal(padded[0, :, :, 0], [[1] * 4] * 3 + [[0] * 4])
    np.testing.assert_array_equal(mask, [[True] * 8, [True] * 4 + [False] * 4])
    unpadded, mask = pad(jnp.ones((1, 4, 4, 1)), (2, 4))
    assert unpadded.shape == (1, 4, 4, 1) and mask is None


def test_relative_position_index_counts_offsets():
    height, width = 2, 3
    index = relative_position_index((height, width))
    for a in range(6):
        for b in range(6):
            dy, dx = a // width - b // width, a % width - b % width
            assert index[a, b] == (dy + height - 1) * (2 * width - 1) + dx + width - 1
    assert isinstance(index, np.ndarray)  # Computed once, never traced.


def test_flattened_bias_is_one_for_all_heads():
    table = jnp.arange(9.0 * 2).reshape(9, 2)
    index = relative_position_index((2, 2))
    np.testing.assert_array_equal(relative_position_bias(table, (2, 2), "per_head")[1], table[index, 1])
    np.testing.assert_array_equal(relative_position_bias(table, (2, 2), "flattened"), index[None].astype(float))


def test_qk_scale_replaces_the_default():
    x = jax.random.normal(jax.random.key(0), (1, 2, 4, 8))
    attention = functools.partial(
        WindowAttention,
        num_heads=2,
        window=(2, 2),
        qkv_bias=True,
        bias_layout="per_head",
        attention_dropout_rate=0.0,
        dropout_rate=0.0,
        dtype=jnp.float32,
    )
    default = attention(qk_scale=None)
    variables = jax.tree.map(lambda leaf: 10 * leaf, default.init(jax.random.key(0), x, train=False))
    same = attention(qk_scale=4**-0.5).apply(variables, x, train=False)
    other = attention(qk_scale=1.0).apply(variables, x, train=False)
    np.testing.assert_array_equal(same, default.apply(variables, x, train=False))
    assert not np.allclose(other, same, rtol=1e-3)


def test_query_of_another_size_is_resized_to_the_window():
    module = GlobalQueryGenerator(stages=1, window=(4, 4), padding="-inf")
    variables = module.init(jax.random.key(0), jnp.ones((1, 8, 8, 8)))
    assert module.apply(variables, jnp.ones((2, 8, 8, 8))).shape == (2, 16, 8)
    assert module.apply(variables, jnp.ones((2, 11, 20, 8))).shape == (2, 16, 8)


def test_drop_path_keeps_the_expectation_and_each_blocks_rate():
    rates = np.linspace(0, 0.5, 5)
    examples = 20_000
    scales = drop_path_scales(jax.random.key(0), rates, jnp.arange(examples))
    assert scales.shape == (5, 2, examples)
    dropped = np.asarray(scales == 0).mean(-1)
    np.testing.assert_allclose(dropped, np.broadcast_to(rates[:, None], (5, 2)), atol=0.015)
    np.testing.assert_allclose(scales.mean(-1), 1.0, atol=0.03)
    branches = np.asarray(scales[-1] == 0)
    assert 0.4 < (branches[0] == branches[1]).mean() < 0.6  # The two branches draw independently.


def test_drop_path_depends_on_the_place_in_the_global_batch_alone():
    key, rates = jax.random.key(3), np.full(4, 0.5)
    whole = drop_path_scales(key, rates, jnp.arange(6))
    np.testing.assert_array_equal(drop_path_scales(key, rates, jnp.array([4, 1])), whole[:, :, [4, 1]])
