"""The TPU kernels of MBConv, interpreted on a CPU, against the layers they stand for; and which of the two is taken."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from model.test_tpu_kernels import TOLERANCES, both, compare

from gcvit_flax.model.convs import MBConv, PatchEmbed, ReduceSize
from gcvit_flax.model.kernels.pointwise import add_bias
from gcvit_flax.model.kernels.tpu import mbconv, strips

IMAGES = 128


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("module", [MBConv, lambda dtype: ReduceSize(24, dtype)], ids=["plain", "normalized"])
@pytest.mark.parametrize(
    ("shape", "step_bytes"),
    [
        ((IMAGES, 4, 6, 16), 2**19),  # Several strips.
        ((2 * IMAGES, 2, 3, 16), strips.STEP_BYTES),
        ((20, 1, 1, 16), strips.STEP_BYTES),
    ],
)
@pytest.mark.parametrize("several", [False, True], ids=["one", "several"])
def test_kernels_are_the_layers(dtype, module, shape, step_bytes, several, monkeypatch, on_tpu):
    monkeypatch.setattr(strips, "STEP_BYTES", step_bytes)
    module = module(dtype=jnp.dtype(dtype))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=shape) + 1, dtype)
    params = module.init(jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda p: p + 0.2 * rng.normal(size=p.shape).astype(np.float32), params)
    weights = rng.normal(size=jax.eval_shape(lambda: module.apply({"params": params}, x)).shape).astype(np.float32)

    def apply(params, x):
        return module.apply({"params": params}, x)

    with jax.default_matmul_precision("highest"):
        expected = both(apply, [params, x], weights)
    with on_tpu(several):
        actual = both(apply, [params, x], weights)
    compare(actual, expected, dtype)


@pytest.mark.parametrize(
    ("shape", "dtype", "computed", "fits"),
    [
        ((IMAGES, 7, 7, 64), jnp.bfloat16, jnp.bfloat16, True),
        ((IMAGES // 2, 7, 7, 64), jnp.bfloat16, jnp.bfloat16, True),
        ((IMAGES // 2, 7, 7, 80), jnp.bfloat16, jnp.bfloat16, False),
        ((IMAGES + 1, 7, 7, 64), jnp.bfloat16, jnp.bfloat16, False),
        ((IMAGES, 7, 7, 24), jnp.bfloat16, jnp.bfloat16, False),
        ((IMAGES, 7, 7, 512), jnp.bfloat16, jnp.bfloat16, False),
        ((IMAGES, 7, 7, 64), jnp.float32, jnp.bfloat16, False),
        ((IMAGES, 7, 7, 64), jnp.float16, jnp.float16, False),
    ],
)
def test_what_kernels_take(shape, dtype, computed, fits):
    assert mbconv.fit_kernels(jax.ShapeDtypeStruct(shape, dtype), computed) == fits


def test_the_program_chooses_by_its_platform():
    stem = PatchEmbed(16)
    images = jax.ShapeDtypeStruct((IMAGES, 16, 16, 3), jnp.float32)
    variables = jax.eval_shape(lambda: stem.init(jax.random.key(0), jnp.zeros(images.shape)))
    gradient = jax.jit(jax.grad(lambda variables, images: stem.apply(variables, images).sum()))
    for platform, calls in {"cpu": 0, "cuda": 0, "tpu": 4}.items():
        module = jax.export.export(gradient, platforms=[platform])(variables, images).mlir_module()
        assert module.count("tpu_custom_call") == calls, platform


def test_parts_can_be_asked_for():
    stem = PatchEmbed(16)
    variables = stem.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    _, state = stem.apply(variables, jnp.zeros((IMAGES, 8, 8, 3)), capture_intermediates=True)
    assert "depthwise" in state["intermediates"]["conv_down"]["conv"]


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_bias(dtype, on_tpu):
    rng = np.random.default_rng(0)
    arguments = [jnp.asarray(rng.normal(size=(2, 3, 5, 4)), dtype), jnp.asarray(rng.normal(size=4), jnp.float32)]
    weights = rng.normal(size=arguments[0].shape).astype(np.float32)
    with on_tpu():
        actual = both(add_bias, arguments, weights)
    compare(actual, both(lambda x, bias: x + bias.astype(x.dtype), arguments, weights), dtype)
