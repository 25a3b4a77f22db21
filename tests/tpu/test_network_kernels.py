"""The network's kernels at published sizes, compiled for each generation or, the largest, for two of them."""

import jax
import jax.numpy as jnp
import pytest

from gcvit_flax.model.block import Block
from gcvit_flax.model.convs import ReduceSize
from gcvit_flax.model.kernels.windowed_attention import windowed_attention

pytestmark = pytest.mark.tpu

# Registers, memory and layouts are a generation's own; v4 has the least vector memory.
TWO_GENERATIONS = pytest.mark.parametrize("tpu", ["v4:2x2x4", "v5e:4x8"], indirect=True)

# Of gcvit_xxtiny and, padded, gcvit_large_384's first level: n, window, channels, heads, global, type and masked.
BLOCKS = {
    "local": (64, (7, 7), 64, 2, False, jnp.bfloat16, False),
    "global": (64, (7, 7), 64, 2, True, jnp.bfloat16, False),
    "one window": (1, (14, 14), 256, 8, True, jnp.bfloat16, False),
}
PADDED = (64, (12, 12), 192, 6, False, jnp.float32, True)


@pytest.mark.parametrize("case", BLOCKS.values(), ids=BLOCKS.keys())
def test_a_block_compiles_with_its_gradients(tpu, case):
    check_block(tpu, case)


@TWO_GENERATIONS
def test_a_block_of_padded_windows_compiles_in_float32(tpu):
    check_block(tpu, PADDED)


def check_block(tpu, case):
    n, window, channels, heads, is_global, dtype, masked = case
    tokens = window[0] * window[1]
    block = Block(channels, heads, window, 3.0, True, None, "per_head", 0.0, 0.0, None, dtype)
    x = _on(tpu, (8, n, tokens, channels), dtype)
    query = _on(tpu, (8, tokens, channels), dtype) if is_global else None
    mask = jnp.ones((n, tokens), bool).at[-1].set(False) if masked else None
    params = jax.eval_shape(lambda: block.init(jax.random.key(0), *_zeros((x, query)), train=False))
    params = jax.tree.map(lambda leaf: _on(tpu, leaf.shape, leaf.dtype), params)

    def loss(params, x, query):
        return block.apply(params, x, query, mask, train=True).astype(jnp.float32).sum()

    with jax.default_matmul_precision("highest" if dtype == jnp.float32 else "default"):
        text = jax.jit(jax.grad(loss, (0, 1))).lower(params, x, query).compile().as_text()
    assert text.count("tpu_custom_call") == 4 - 1  # Both branches' gradients; only the first's values are read.


# Of the last level of gcvit_xxtiny and the third of gcvit_base: tokens of a window, global, type and masked.
WIDE = {"49 tokens": (49, False, jnp.bfloat16, False), "196 tokens in float32": (196, True, jnp.float32, True)}


@pytest.mark.parametrize("case", WIDE.values(), ids=WIDE.keys())
def test_wide_attention_compiles_with_its_gradients(tpu, case):
    tokens, is_global, dtype, masked = case
    channels, heads = 512, 16
    query = _on(tpu, (8, tokens, channels), dtype) if is_global else None
    qkv, bias = _on(tpu, (8, 1, tokens, (2 if is_global else 3) * channels), dtype), _on(tpu, (heads, tokens, tokens))
    mask = jnp.ones((1, tokens), bool).at[0, -1].set(False) if masked else None

    def loss(qkv, query, bias):
        return (windowed_attention(qkv, query, bias, mask, heads, 0.2).astype(jnp.float32) ** 2).sum()

    text = jax.jit(jax.grad(loss, (0, 2))).lower(qkv, query, bias).compile().as_text()
    assert text.count("tpu_custom_call") == 2


@TWO_GENERATIONS
@pytest.mark.parametrize(
    ("side", "channels", "dtype"), [(56, 64, jnp.bfloat16), (48, 192, jnp.float32), (14, 256, jnp.bfloat16)]
)
def test_a_downsample_compiles_with_its_gradients(tpu, side, channels, dtype):
    """The first level's of gcvit_xxtiny and, for images of 192 px, gcvit_large; and the third's of gcvit_xxtiny."""
    downsample = ReduceSize(2 * channels, dtype)
    x = _on(tpu, (128, side, side, channels), dtype)
    variables = jax.eval_shape(lambda: downsample.init(jax.random.key(0), jnp.zeros((1, *x.shape[1:]), dtype)))
    variables = jax.tree.map(lambda leaf: _on(tpu, leaf.shape, leaf.dtype), variables)

    def loss(variables, x):
        return downsample.apply(variables, x).astype(jnp.float32).sum()

    text = jax.jit(jax.grad(loss, (0, 1))).lower(variables, x).compile().as_text()
    assert text.count("tpu_custom_call") == 4


def _on(tpu, shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=jax.sharding.SingleDeviceSharding(tpu.devices[0]))


def _zeros(tree):
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)
