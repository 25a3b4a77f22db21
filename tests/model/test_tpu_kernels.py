"""The TPU kernels, interpreted on a CPU, against the layers they stand for; and which of the two a program has."""

import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from model.test_kernels import assert_close, attention_by_heads
from small import TINY

import gcvit_flax
from gcvit_flax.model.block import Block
from gcvit_flax.model.kernels import plain, pointwise
from gcvit_flax.model.kernels.tpu import attention_steps, tiles, window_attention
from gcvit_flax.model.kernels.tpu.rows import normal_cdf_and_density
from gcvit_flax.model.position_bias import relative_position_bias, relative_position_bias_by_products

TOLERANCES = {"float32": (1e-5, 1e-5), "bfloat16": (2e-2, 4e-2)}


def both(function, arguments, weights):
    """Values, and gradients of their weighted sum."""

    def loss(arguments):
        values = function(*arguments)
        return (values * weights).sum(), values

    gradients, values = jax.jit(jax.grad(loss, has_aux=True))(arguments)
    return values, gradients


def compare(ours, theirs, dtype):
    values, gradients = (jax.tree.leaves(tree) for tree in ours)
    expected_values, expected_gradients = (jax.tree.leaves(tree) for tree in theirs)
    assert_close(values[0], expected_values[0], TOLERANCES[dtype][0])
    for actual, expected in zip(gradients, expected_gradients, strict=True):
        assert actual.dtype == expected.dtype
        assert_close(actual, expected, TOLERANCES[dtype][1])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(
    ("windows", "tokens", "heads", "width", "shared_query", "masked", "bias_heads"),
    [
        (4, 6, 2, 5, False, False, 2),
        (4, 6, 2, 5, True, True, 2),
        (1, 11, 6, 40, False, False, 1),  # Two groups of heads: 120 and 120 of 240 channels.
        (2, 200, 4, 32, True, False, 4),  # Two stacks of heads in one group.
        (2, 6, 8, 32, False, True, 8),  # Two groups of heads in turn.
        (2, 6, 8, 32, True, False, 1),
    ],
)
def test_window_attention(dtype, windows, tokens, heads, width, shared_query, masked, bias_heads, monkeypatch):
    monkeypatch.setattr(tiles, "STEP_BYTES", 2**20)  # Several steps, for images and for windows.
    rng = np.random.default_rng(0)
    keys = (4, windows, heads, tokens, width)
    shapes = [keys[:1] + keys[2:] if shared_query else keys, keys, keys, (bias_heads, tokens, tokens)]
    arguments = [jnp.asarray(rng.normal(size=shape) / np.sqrt(width), dtype) for shape in shapes]
    weights = rng.normal(size=keys).astype(np.float32)
    mask = jnp.ones((windows, tokens), bool).at[-1, 4:].set(False) if masked else None
    with jax.default_matmul_precision("highest"):
        expected = both(
            lambda *x: plain.windowed_attention(*x, mask), [x.astype(jnp.float32) for x in arguments], weights
        )
        expected = jax.tree.map(lambda x: x.astype(dtype), expected)
        with pltpu.force_tpu_interpret_mode():
            values = attention_by_heads(*arguments, mask, kernel=window_attention.attention)
            gradients = _gradients(arguments, mask, jnp.asarray(weights, dtype))
    compare((values, gradients), expected, dtype)


def _gradients(arguments, mask, gradient):
    """Those of `window_attention.attention_gradients`, by heads."""

    @jax.custom_vjp
    def attention(qkv, query, bias):
        return window_attention.attention(qkv, query, bias, mask, heads, 1.0)

    def forward(*inputs):
        return attention(*inputs), inputs

    def backward(inputs, gradient):
        qkv, query, bias = inputs
        return window_attention.attention_gradients(qkv, query, bias, mask, gradient, heads, 1.0)

    attention.defvjp(forward, backward)
    heads = arguments[1].shape[2]
    kernel = lambda qkv, query, bias, mask, heads, scale: attention(qkv, query, bias)  # noqa: E731
    return jax.vjp(lambda *x: attention_by_heads(*x, mask, kernel=kernel), *arguments)[1](gradient)


BLOCK = {
    "channels": 20,
    "num_heads": 2,
    "window": (2, 3),
    "mlp_ratio": 3.0,
    "qkv_bias": True,
    "qk_scale": None,
    "bias_layout": "per_head",
    "dropout_rate": 0.0,
    "attention_dropout_rate": 0.0,
    "layer_scale": None,
    "dtype": jnp.float32,
}


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(
    ("fields", "shared_query", "masked", "path"),
    [
        ({}, False, False, False),
        ({}, True, True, True),
        ({"layer_scale": 0.5, "qkv_bias": False, "qk_scale": 0.4}, False, True, True),
        ({"bias_layout": "flattened"}, True, False, False),
        ({"bias_layout": "expanded", "layer_scale": 0.1}, False, False, True),
    ],
)
@pytest.mark.parametrize("several", [False, True], ids=["one", "several"])
def test_a_block_of_kernels_is_the_block_of_layers(
    dtype, fields, shared_query, masked, path, several, monkeypatch, on_tpu
):
    monkeypatch.setattr(tiles, "STEP_BYTES", 2**16)  # Several steps.
    block = Block(**BLOCK | fields | {"dtype": jnp.dtype(dtype)})
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(4, 3, 6, 20)), dtype)
    query = jnp.asarray(rng.normal(size=(4, 6, 20)), dtype) if shared_query else None
    mask = jnp.ones((3, 6), bool).at[-1, 2:].set(False) if masked else None
    scales = jnp.asarray([[0.0, 2.0, 1.0, 2.0], [1.0, 0.0, 2.0, 2.0]]) if path else None
    params = block.init(jax.random.key(0), x, query, mask, train=False)["params"]
    params = jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape).astype(np.float32), params)
    weights = np.asarray(rng.normal(size=x.shape), np.float32)
    if masked:
        weights[:, -1, 2:] = 0  # What is computed for padding is cropped.

    def apply(params, x, query):
        return block.apply({"params": params}, x, query, mask, scales, train=True)

    with jax.default_matmul_precision("highest"):
        expected = both(apply, [params, x, query], weights)
    with on_tpu(several):
        actual = both(apply, [params, x, query], weights)
    compare(actual, expected, dtype)


def test_dropout_takes_the_layers(on_tpu):
    x = jax.random.normal(jax.random.key(0), (1, 1, 6, 20))
    dropping = Block(**BLOCK | {"dropout_rate": 0.5})
    params = dropping.init(jax.random.key(0), x, train=False)
    with on_tpu():
        results = [dropping.apply(params, x, train=True, rngs={"dropout": jax.random.key(key)}) for key in range(2)]
    assert not jnp.array_equal(*results)


@pytest.mark.parametrize("window", [(7, 7), (2, 3), (3, 1)])
@pytest.mark.parametrize("layout", ["per_head", "flattened"])
def test_bias_by_products_is_the_bias_by_index(window, layout):
    rows = (2 * window[0] - 1) * (2 * window[1] - 1)
    table = jax.random.normal(jax.random.key(0), (rows, 3))
    expected = relative_position_bias(table, window, layout)
    np.testing.assert_array_equal(relative_position_bias_by_products(table, window, layout), expected)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_the_gradient_of_a_bias_is_the_same_as_a_product_and_as_a_sum(dtype):
    gradient = jax.random.normal(jax.random.key(0), (3, 7, 4, 5)).astype(dtype)
    expected = np.float32(gradient).sum((0, 1, 2))
    for total in (pointwise._sum_by_product(gradient), pointwise._sum(gradient)):
        assert total.dtype == jnp.float32
        np.testing.assert_allclose(total, expected, rtol=TOLERANCES[dtype][0], atol=TOLERANCES[dtype][0])


def test_gelu_polynomial():
    x = np.linspace(-10, 10, 4096).astype(np.float32).reshape(32, 128)

    def kernel(x_ref, cdf_ref, density_ref):
        cdf_ref[...], density_ref[...] = normal_cdf_and_density(x_ref[...])

    shape = jax.ShapeDtypeStruct(x.shape, jnp.float32)
    with pltpu.force_tpu_interpret_mode():
        cdf, density = pl.pallas_call(kernel, out_shape=[shape, shape])(x)
    np.testing.assert_allclose(cdf, scipy.stats.norm.cdf(np.float64(x)), atol=2e-7)
    np.testing.assert_allclose(density, scipy.stats.norm.pdf(np.float64(x)), atol=2e-7)


def test_the_program_chooses_by_its_platform():
    """Not by the machine that it is lowered on: kernels for TPUs are there in a program for TPUs alone."""
    model = gcvit_flax.create_model("gcvit_xxtiny", num_classes=3)
    params = jax.eval_shape(lambda: gcvit_flax.init_params(model, jax.random.key(0)))
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)

    def loss(params, images):
        return model.apply({"params": params}, images, train=True, rngs={"dropout": jax.random.key(0)}).sum()

    exports = {
        platform: jax.export.export(jax.jit(jax.grad(loss)), platforms=[platform])(params, images).mlir_module()
        for platform in ("cpu", "tpu", "cuda")
    }
    calls = {platform: text.count("tpu_custom_call") for platform, text in exports.items()}
    assert calls["cpu"] == calls["cuda"] == 0
    assert calls["tpu"] > 0
    assert "optimization_barrier" in exports["cpu"]


def small_block(**fields):
    block = Block(**BLOCK | fields)
    x = jax.random.normal(jax.random.key(1), (2, 3, 6, 20), block.dtype)
    return block, block.init(jax.random.key(0), x, train=False), x


def test_a_program_for_all_platforms_has_both_forms():
    block, variables, x = small_block()
    apply = jax.jit(lambda variables, x: block.apply(variables, x, train=False))
    exported = jax.export.export(apply, platforms=["cpu", "cuda", "tpu"])(variables, x)
    kernels = set(re.findall(r'kernel_name = "(\w+)"', exported.mlir_module()))
    assert kernels >= {"attention_branch", "mlp_branch"}
    np.testing.assert_allclose(exported.call(variables, x), apply(variables, x), rtol=1e-5, atol=1e-5)


def test_gradients_of_gradients():
    block, variables, x = small_block()

    @jax.jit  # Not compiled, a program holds its own platform's form alone.
    def penalty(variables):
        return (jax.grad(lambda x: block.apply(variables, x, train=False).sum())(x) ** 2).sum()

    gradient = jax.jit(jax.grad(penalty))(variables)["params"]["mlp"]["fc1"]["kernel"]
    step = 1e-2
    direction = jax.tree.map(jnp.zeros_like, variables)
    direction["params"]["mlp"]["fc1"]["kernel"] = gradient / jnp.linalg.norm(gradient)
    ahead, behind = (jax.tree.map(lambda p, d, s=s: p + s * d, variables, direction) for s in (step, -step))
    slope = (penalty(ahead) - penalty(behind)) / (2 * step)
    np.testing.assert_allclose(slope, jnp.linalg.norm(gradient), rtol=2e-2)


@pytest.mark.parametrize(
    ("shape", "heads", "dtype", "fit_branch", "fit_attention"),
    [
        ((2, 1, 196, 256), 8, jnp.bfloat16, True, True),
        ((2, 1, 196, 512), 16, jnp.bfloat16, False, True),  # That of gcvit_base's third level takes 2.6 MB.
        ((2, 1, 576, 768), 24, jnp.bfloat16, False, False),  # The bias of gcvit_large_384's third level takes 32 MB.
        ((2, 1, 49, 256), 8, jnp.float16, False, False),
    ],
)
def test_what_kernels_take(shape, heads, dtype, fit_branch, fit_attention):
    assert attention_steps.fit_branch(jax.ShapeDtypeStruct(shape, dtype), heads) == fit_branch
    for parts, query in ((3, None), (2, shape)):
        qkv = jax.ShapeDtypeStruct((*shape[:3], parts * shape[3]), dtype)
        assert window_attention.fit_attention(qkv, query, heads) == fit_attention


def test_parameters_may_be_narrow():
    block, variables, x = small_block(dtype=jnp.bfloat16)
    narrow = jax.tree.map(lambda p: p.astype(jnp.bfloat16), variables)
    wide = block.apply(variables, x, train=False)
    assert_close(block.apply(narrow, x, train=False), wide, 2e-2)


def test_intermediates_of_whole_blocks_can_be_asked_for():
    model = gcvit_flax.create_model(TINY)
    variables = {"params": gcvit_flax.init_params(model, jax.random.key(0))}
    images = jnp.ones((1, *model.config.image_size, 3))
    _, state = model.apply(variables, images, capture_intermediates=True)
    assert "__call__" in state["intermediates"]["levels_0"]["blocks_0"]
