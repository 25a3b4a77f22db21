"""`visualize.attention_weights` against plain NumPy, for a network that pads its maps."""

import dataclasses

import jax
import numpy as np
import pytest
import skimage.data
from small import TINY

from gcvit_flax.config import Preprocessing
from gcvit_flax.data.preprocess import preprocess
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.model.init import init_params
from gcvit_flax.model.position_bias import relative_position_bias
from gcvit_flax.visualize.attention_weights import attention_map, attention_weights, relative_position_bias_planes

SIZE = (45, 37)  # Maps of 12 x 10, 6 x 5, 3 x 3 and 2 x 2, of which the first three are padded.
GRIDS = ((12, 10), (6, 5), (3, 3), (2, 2))


@pytest.fixture(scope="module")
def model() -> GCViT:
    return GCViT(dataclasses.replace(TINY, pad_to_windows=True), Preprocessing(SIZE))


@pytest.fixture(scope="module")
def variables(model) -> dict:
    """Random parameters far from zero, so that no attention is nearly uniform."""
    return {"params": jax.tree.map(lambda leaf: np.asarray(3 * leaf), init_params(model, jax.random.key(0)))}


@pytest.fixture(scope="module")
def images(model) -> np.ndarray:
    return preprocess(skimage.data.chelsea(), model)


@pytest.fixture(scope="module")
def logits(model, variables, images) -> dict:
    """Level 0's logits (n, h, T, T) from its captured projections, computed one query, key and window at a time."""

    @jax.jit
    def capture(variables, images):
        def wanted(module, _):
            return module.name in ("qkv", "q_global_gen")

        _, state = model.apply(variables, images, capture_intermediates=wanted, mutable=["intermediates"])
        return state["intermediates"]["levels_0"]

    level = jax.device_get(capture(variables, images))
    params = variables["params"]["levels_0"]
    expected = {}
    for block, parts in ((0, 3), (1, 2)):
        (qkv,) = level[f"blocks_{block}"]["attn"]["qkv"]["__call__"]
        *own_query, key, _ = np.split(qkv[0], parts, -1)  # (n, T, C), of one head of 8 channels.
        query = own_query[0] if own_query else level["q_global_gen"]["__call__"][0]  # (n or 1, T, C)
        table = params[f"blocks_{block}"]["attn"]["relative_position_bias_table"]
        of_block = np.full((9, 1, 16, 16), -np.inf, np.float32)
        for window, q, k in np.ndindex(9, 16, 16):
            row, column = window // 3 * 4 + k // 4, window % 3 * 4 + k % 4
            if row < 12 and column < 10:
                bias = table[(q // 4 - k // 4 + 3) * 7 + q % 4 - k % 4 + 3, 0]
                q_vector = query[window if own_query else 0, q]
                of_block[window, 0, q, k] = q_vector @ key[window, k] * 8**-0.5 + bias
        expected[block] = of_block
    return expected


def test_weights_are_the_softmax_of_queries_keys_and_bias(model, variables, images, logits):
    weights = attention_weights(model, variables, images)
    assert sorted(weights) == [(0, 0), (0, 1), (1, 0), (2, 0), (3, 0)]
    for block, expected in logits.items():
        exponentials = np.exp(expected)
        assert weights[0, block].dtype == np.float32 and weights[0, block].shape == (1, 9, 1, 16, 16)
        np.testing.assert_allclose(
            weights[0, block][0], exponentials / exponentials.sum(-1, keepdims=True), rtol=1e-3, atol=1e-5
        )


def test_a_local_map_is_the_mean_over_each_windows_own_queries(model, variables, images, logits):
    received = attention_map(model, variables, images, 0, 0)
    assert received.shape == (1, 1, 12, 10) and received.std() > 0.05
    for window in range(9):
        top, left = window // 3 * 4, window % 3 * 4
        columns = min(4, 10 - left)
        real = [row * 4 + column for row in range(4) for column in range(columns)]
        exponentials = np.exp(logits[0][window, 0][real][:, real])
        expected = (exponentials / exponentials.sum(-1, keepdims=True)).mean(0) * len(real)
        part = received[0, 0, top : top + 4, left : left + columns]
        np.testing.assert_allclose(part.ravel(), expected, rtol=1e-3)
        assert part.mean() == pytest.approx(1, rel=1e-5)


def test_a_global_map_is_a_softmax_over_all_keys_of_the_image(model, variables, images, logits):
    received = attention_map(model, variables, images, 0, 1)
    expected = np.zeros((12, 10))
    for query in range(16):
        exponentials = np.exp(logits[1][:, 0, query].astype(float))
        for window, key in np.ndindex(9, 16):
            if exponentials[window, key]:
                place = window // 3 * 4 + key // 4, window % 3 * 4 + key % 4
                expected[place] += 120 * exponentials[window, key] / exponentials.sum() / 16
    np.testing.assert_allclose(received[0, 0], expected, rtol=1e-3)
    assert received.shape == (1, 1, 12, 10) and received.mean() == pytest.approx(1, rel=1e-5)
    assert received[0, 0, :4, :4].mean() != pytest.approx(1, abs=0.01)  # A softmax within windows would give 1.


def test_every_map_has_the_levels_size_without_padding(model, variables, images):
    for level, grid in enumerate(GRIDS):
        received = attention_map(model, variables, images, level, 0)
        assert received.shape == (1, TINY.num_heads[level], *grid)
        np.testing.assert_allclose(received.mean((-1, -2)), 1, rtol=1e-5)


@pytest.mark.parametrize(("layout", "fused"), [("per_head", False), ("flattened", False), ("per_head", True)])
def test_planes_hold_the_bias_of_every_pair_of_tokens(layout, fused):
    heads, height, width = 2, 4, 6  # Of level 2 at 64 x 96 px.
    config = dataclasses.replace(TINY, image_size=(64, 96), window_size=(), relative_position_bias=layout)
    table = np.random.default_rng(0).normal(size=((2 * height - 1) * (2 * width - 1), heads)).astype(np.float32)
    bias = np.asarray(relative_position_bias(table, (height, width), layout))
    leaf = {"relative_position_bias": bias} if fused else {"relative_position_bias_table": table}
    params = {"levels_2": {"blocks_0": {"attn": leaf}}}
    planes = relative_position_bias_planes(GCViT(config, fused=fused), {"params": params}, 2, 0)
    assert planes.shape == (heads, 2 * height - 1, 2 * width - 1)
    for head, q, k in np.ndindex(heads, height * width, height * width):
        dy, dx = q // width - k // width, q % width - k % width
        assert planes[head, dy + height - 1, dx + width - 1] == bias[min(head, len(bias) - 1), q, k]
