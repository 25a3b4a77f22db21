"""Each kernel against its plain form in float64, in values and in gradients."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from einops import rearrange
from flax import linen as nn

from gcvit_flax.devices import compiler_options
from gcvit_flax.model.kernels import convolution, plain
from gcvit_flax.model.kernels.convolution import (
    depthwise_conv3x3,
    max_pool3x3,
    strided_conv3x3,
    strided_conv3x3_by_rows,
)
from gcvit_flax.model.kernels.dense import dense
from gcvit_flax.model.kernels.pointwise import gelu, layer_norm
from gcvit_flax.model.kernels.windowed_attention import windowed_attention

BATCH, WINDOWS, HEADS, TOKENS, WIDTH = 2, 9, 2, 6, 5
DTYPES = pytest.mark.parametrize(
    ("dtype", "forward", "backward"), [(jnp.float32, 1e-6, 1e-5), (jnp.bfloat16, 2e-2, 3e-2)], ids=["f32", "bf16"]
)


def attention_by_heads(q, k, v, bias, mask=None, kernel=windowed_attention):
    """A kernel whose heads lie in channels, on queries, keys and values (B, n, h, T, d), or shared (B, h, T, d)."""
    parts, query = ([q, k, v], None) if q.ndim == k.ndim else ([k, v], rearrange(q, "B h T d -> B T (h d)"))
    qkv = rearrange(jnp.stack(parts), "parts B n h T d -> B n T (parts h d)")
    x = kernel(qkv, query, bias, mask, k.shape[2], 1.0)
    return rearrange(x, "B n T (h d) -> B n h T d", h=k.shape[2])


def assert_close(actual, expected, tolerance):
    """Arrays that differ by at most a share of the largest expected value."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    largest = np.abs(expected).max()
    assert largest > 0
    assert np.abs(actual - expected).max() <= tolerance * largest


def check(kernel, plain_form, shapes, dtype=jnp.float32, forward=1e-6, backward=1e-5):
    """Holds a kernel, compiled as the trainer does, to its plain form in float64."""
    rng = np.random.default_rng(0)
    arguments = [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]
    weights = rng.normal(size=jax.eval_shape(kernel, *arguments).shape)
    which = tuple(range(len(arguments)))

    def both(function, weights, *arguments):
        gradients = jax.grad(lambda *x: (function(*x) * weights).sum(), argnums=which)(*arguments)
        return function(*arguments), gradients

    narrow = weights.astype(np.float32)
    compiled = jax.jit(lambda *x: both(kernel, narrow, *x)).lower(*arguments)
    values, gradients = compiled.compile(compiler_options(jax.devices()[0]))(*arguments)
    wide = [np.asarray(x, np.float64) for x in arguments]
    with jax.enable_x64(True):
        expected_values, expected_gradients = jax.tree.map(np.asarray, both(plain_form, weights, *wide))
    assert expected_values.dtype == np.float64
    assert_close(values, expected_values, forward)
    for argument, ours, expected in zip(arguments, gradients, expected_gradients, strict=True):
        assert ours.dtype == argument.dtype
        assert_close(ours, expected, backward)


@DTYPES
@pytest.mark.parametrize("shape", [(2, 9, 6, 5), (2, 5)])
def test_dense(dtype, forward, backward, shape):
    check(lambda *x: dense(*x, None), lambda x, kernel: x @ kernel, [shape, (5, 8)], dtype, forward, backward)


def test_a_dense_kernel_in_bfloat16_rounds_the_input_alone():
    x, y = np.random.default_rng(0).normal(size=(2, 6, 8, 8)).astype(np.float32)
    kernel = jnp.asarray(y[0], jnp.bfloat16)
    value, pull = jax.vjp(lambda *x: dense(*x, None), jnp.asarray(x), kernel)
    rounded = np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32)
    assert value.dtype == jnp.float32
    assert_close(value, rounded @ np.asarray(kernel, np.float32), 1e-6)
    x_gradient, kernel_gradient = pull(jnp.asarray(y))
    assert (x_gradient.dtype, kernel_gradient.dtype) == (jnp.float32, jnp.bfloat16)
    assert_close(kernel_gradient, np.einsum("btc,btd->cd", rounded, y), 2e-2)


def compiled_gradients(function, *shapes):
    """The program of the gradients of a kernel, compiled as the trainer does, as text."""
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    result = jax.eval_shape(function, *arguments)
    gradients = jax.jit(lambda result, *arguments: jax.vjp(function, *arguments)[1](result))
    return gradients.lower(result, *arguments).compile(compiler_options(jax.devices()[0])).as_text()


def test_the_gradients_of_a_dense_kernel_transpose_nothing():
    program = compiled_gradients(lambda *x: dense(*x, None), (2, 16, 49, 64), (64, 192))
    assert " dot(" in program and " transpose(" not in program


@pytest.mark.usefixtures("own_names")
@pytest.mark.skipif(not compiler_options(jax.devices()[0]), reason="here XLA:CPU has no barriers")
@pytest.mark.parametrize(
    ("kernel", "shapes"),
    [
        (lambda *x: layer_norm(*x, 1e-5), [(4, 196, 256), (256,), (256,)]),
        (attention_by_heads, [(4, 1, 8, 196, 32)] * 3 + [(8, 196, 196)]),
    ],
    ids=["layer norm", "attention"],
)
def test_sums_along_rows_are_of_arrays_that_were_written(kernel, shapes):
    """XLA:CPU takes many times as long for sums of products."""
    program, last = compiled_gradients(kernel, *shapes), len(shapes[0]) - 1
    row_sum = re.compile(rf" reduce\(.*dimensions=\{{{last}\}}.*transpose\(jvp")
    parts = [part for part in program.split("\n\n") if row_sum.search(part)]
    assert parts
    assert not [part for part in parts if " multiply(" in part]


@DTYPES
@pytest.mark.parametrize("shared_query", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("windows", "bias_heads"), [(9, HEADS), (16, 1), (1, HEADS)])
def test_windowed_attention(dtype, forward, backward, shared_query, masked, windows, bias_heads):
    keys = (BATCH, windows, HEADS, TOKENS, WIDTH)
    queries = (BATCH, HEADS, TOKENS, WIDTH) if shared_query else keys
    mask = None
    if masked:
        mask = jnp.ones((windows, TOKENS), bool).at[-1, 4:].set(False)
    check(
        lambda *x: attention_by_heads(*x, mask),
        lambda *x: plain.windowed_attention(*x, mask),
        [queries, keys, keys, (bias_heads, TOKENS, TOKENS)],
        dtype,
        forward,
        backward,
    )


@pytest.mark.parametrize("shared_query", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_windowed_attention_is_softmax_attention(shared_query, masked):
    rng = np.random.default_rng(0)
    batch, windows, heads, tokens, width = 2, 3, 2, 4, 5
    k, v = rng.normal(size=(2, batch, windows, heads, tokens, width))
    q = rng.normal(size=(batch, *([] if shared_query else [windows]), heads, tokens, width))
    bias = rng.normal(size=(heads, tokens, tokens))
    mask = np.ones((windows, tokens), bool)
    mask[-1, 2:] = not masked

    expected = np.empty((batch, windows, heads, tokens, width))
    for b, n, h in np.ndindex(batch, windows, heads):
        query = q[b, h] if shared_query else q[b, n, h]
        logits = query @ k[b, n, h].T + bias[h]
        weights = np.exp(logits) * mask[n]
        expected[b, n, h] = weights / weights.sum(-1, keepdims=True) @ v[b, n, h]
    arguments = [jnp.float32(x) for x in (q, k, v, bias)]
    actual = attention_by_heads(*arguments, jnp.array(mask) if masked else None)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_attention_survives_large_logits():
    q = jnp.full((1, 1, 1, 2, 1), 100.0)
    np.testing.assert_allclose(attention_by_heads(q, q, q, jnp.zeros((1, 2, 2))), q)


@DTYPES
@pytest.mark.parametrize("size", [(7, 10), (8, 6)])
def test_depthwise_convolution(dtype, forward, backward, size):
    check(depthwise_conv3x3, plain.depthwise_conv3x3, [(3, *size, 5), (3, 3, 1, 5)], dtype, forward, backward)


@DTYPES
def test_depthwise_convolution_as_gpus_sum_its_kernel_gradient(dtype, forward, backward, monkeypatch):
    monkeypatch.setattr(convolution, "_tap_gradients_by_rows", convolution._tap_gradients)
    check(depthwise_conv3x3, plain.depthwise_conv3x3, [(3, 7, 10, 5), (3, 3, 1, 5)], dtype, forward, backward)


@DTYPES
@pytest.mark.parametrize("size", [(8, 6), (7, 10), (7, 9)])
def test_strided_convolution(dtype, forward, backward, size):
    check(strided_conv3x3, plain.strided_conv3x3, [(3, *size, 4), (3, 3, 4, 5)], dtype, forward, backward)


@pytest.mark.parametrize("padding", [-np.inf, 0.0])
@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_max_pool(padding, size):
    check(lambda x: max_pool3x3(x, padding), lambda x: plain.max_pool3x3(x, padding), [(2, *size, 3)])


@pytest.mark.parametrize("padding", [-jnp.inf, 0.0])
@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_max_pool_is_a_window_reduction(padding, size):
    x = jax.random.normal(jax.random.key(0), (2, *size, 3)) - 1.0  # Mostly negative, so that the padding shows.
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=padding)
    np.testing.assert_array_equal(max_pool3x3(x, padding), nn.max_pool(padded, (3, 3), (2, 2)))


@DTYPES
def test_gelu(dtype, forward, backward):
    check(gelu, plain.gelu, [(4, 5, 6)], dtype, forward, backward)


def test_gelu_is_the_exact_one():
    x = np.linspace(-6, 6, 1001)
    np.testing.assert_allclose(gelu(jnp.float32(x)), x * scipy.special.ndtr(x), atol=1e-6)


@DTYPES
def test_layer_norm(dtype, forward, backward):
    kernel, plain_form = (lambda *x, f=f: f(*x, 1e-5) for f in (layer_norm, plain.layer_norm))
    check(kernel, plain_form, [(3, 4, 7), (7,), (7,)], dtype, forward, backward)


def test_layer_norm_where_the_mean_is_large():
    x = np.float32(1e4) + np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
    expected = plain.layer_norm(x.astype(np.float64), 1.0, 0.0, 1e-5)
    assert_close(layer_norm(jnp.asarray(x), jnp.ones(64), jnp.zeros(64), 1e-5), expected, 1e-3)


@pytest.mark.parametrize("sides", [(8, 6), (7, 10), (7, 9)])
def test_strided_convolution_by_rows(sides):
    check(strided_conv3x3_by_rows, plain.strided_conv3x3, [(2, *sides, 5), (3, 3, 5, 7)])
    x, kernel = jnp.ones((1, *sides, 4)), jnp.ones((3, 3, 4, 2), jnp.bfloat16)
    assert strided_conv3x3_by_rows(x, kernel).dtype == jnp.float32
