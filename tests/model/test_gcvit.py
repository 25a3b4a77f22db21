import dataclasses
import functools
import re

import flax
import flax.linen as nn
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from small import TINY

from gcvit_flax.devices import compiler_options
from gcvit_flax.model import level
from gcvit_flax.model.gcvit import create_model
from gcvit_flax.model.init import init_params
from gcvit_flax.model.level import Level
from gcvit_flax.model.windows import partition

COMPILER_OPTIONS = compiler_options(jax.local_devices()[0])


@pytest.fixture(scope="module")
def model():
    return create_model(TINY)


@pytest.fixture(scope="module")
def variables(model):
    """Parameters away from their small initial values, so that every part of the network has a say."""
    params = init_params(model, jax.random.key(1))
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    return {"params": structure.unflatten([leaf + rng.normal(0, 0.15, leaf.shape).astype("f") for leaf in leaves])}


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(2), (3, 32, 32, 3))


@functools.partial(jax.jit, static_argnames=("model", "train", "method"))
def apply(model, variables, images, train=False, method=None, rngs=None):
    """model.apply, compiled: op by op it is much slower."""
    return model.apply(variables, images, train=train, method=method, rngs=rngs)


def relative_difference(a, b) -> float:
    return float(np.abs(np.asarray(a, np.float64) - np.asarray(b)).max() / np.abs(np.asarray(b)).max())


def test_batch_equals_batches_of_one(model, variables, images):
    together = apply(model, variables, images)
    alone = jnp.concatenate([apply(model, variables, image[None]) for image in images])
    assert relative_difference(together, alone) < 1e-5


def test_features_and_embedding_have_the_documented_shapes(model, variables, images):
    maps = apply(model, variables, images, method="features")
    assert [m.shape for m in maps] == [(3, 8, 8, 8), (3, 4, 4, 16), (3, 2, 2, 32), (3, 1, 1, 64)]
    embedding = apply(model, variables, images, method="embed")
    assert embedding.shape == (3, 64)
    head = variables["params"]["head"]
    logits = apply(model, variables, images)
    np.testing.assert_allclose(embedding @ head["kernel"] + head["bias"], logits, rtol=1e-5, atol=1e-5)


def test_no_head_gives_the_embedding(model, variables, images):
    headless = create_model(TINY, num_classes=0)
    params = {name: value for name, value in variables["params"].items() if name != "head"}
    assert "head" not in jax.eval_shape(headless.init, jax.random.key(0), images)["params"]
    np.testing.assert_array_equal(
        apply(headless, {"params": params}, images), apply(model, variables, images, method="embed")
    )


def test_bfloat16_stays_near_float32(variables, images):
    exact = apply(create_model(TINY), variables, images)
    rounded = apply(create_model(TINY, dtype=jnp.bfloat16), variables, images)
    assert rounded.dtype == jnp.float32
    assert 0 < relative_difference(rounded, exact) < 0.03


@pytest.mark.parametrize(
    ("setting", "value"), [("relative_position_bias", "flattened"), ("query_pool_padding", "zero")]
)
def test_each_reference_setting_changes_the_logits(model, variables, images, setting, value):
    other = create_model(TINY, **{setting: value})
    assert relative_difference(apply(other, variables, images), apply(model, variables, images)) > 1e-4


def test_remat_recomputes_and_gives_the_same_gradients(variables, images):
    def gradient_of(remat):
        model = create_model(TINY, remat=remat)
        return jax.jit(jax.grad(lambda variables: (model.apply(variables, images, train=True) ** 2).sum()))

    plain, remat = gradient_of(False), gradient_of(True)
    products = [str(jax.make_jaxpr(gradient)(variables)).count("dot_general") for gradient in (plain, remat)]
    assert products[1] > products[0]
    plain, remat = (jax.flatten_util.ravel_pytree(gradient(variables))[0] for gradient in (plain, remat))
    assert relative_difference(remat, plain) < 1e-5


@pytest.mark.skipif(not COMPILER_OPTIONS, reason="here XLA merges what is recomputed with what was computed before")
@pytest.mark.usefixtures("own_names")
def test_the_backward_pass_repeats_no_product_or_convolution(variables, images):
    """Except for those of squeeze-and-excitation, which are of one vector per image."""
    model = create_model(TINY)
    gradient = jax.jit(jax.grad(lambda variables: (model.apply(variables, images, train=True) ** 2).sum()))
    program = gradient.lower(variables).compile(COMPILER_OPTIONS).as_text()
    recomputed = [name for name in re.findall(r'op_name="([^"]*)"', program) if "rematted_computation" in name]
    assert any(name.endswith("erf") for name in recomputed)
    dear = [
        name for name in recomputed if name.endswith(("dot_general", "conv_general_dilated")) and "/se/" not in name
    ]
    assert not dear


@pytest.mark.parametrize(("depth", "leaks"), [(1, False), (2, True)])
def test_only_global_attention_sees_other_windows(depth, leaks):
    """The second block is global: its query is made of the whole map, the first block's of its own window."""
    level = Level(dataclasses.replace(TINY, depths=(depth, 1, 1, 1)), 0, jnp.float32, remat=False, fused=False)
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 8))
    variables = level.init(jax.random.key(1), x, None, train=False)
    variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)  # Biases and norms start at values without effect.

    def first_window(x):
        features, _ = level.apply(variables, x, None, train=False)
        return partition(features, (4, 4))[0, 0].sum()

    gradient = partition(jax.grad(first_window)(x), (4, 4))[0]  # (n, T, C)
    assert jnp.abs(gradient[0]).max() > 0
    assert (jnp.abs(gradient[1:]).max() > 0) == leaks


def test_non_square_images_and_windows(variables):
    model = create_model(TINY, image_size=(32, 64), window_size=((4, 8), (4, 8), (2, 4), (1, 2)))
    images = jnp.ones((2, 32, 64, 3))
    params = init_params(model, jax.random.key(0))
    assert params["levels_0"]["blocks_0"]["attn"]["relative_position_bias_table"].shape == (7 * 15, 1)
    maps = apply(model, {"params": params}, images, method="features")
    assert [m.shape[1:3] for m in maps] == [(8, 16), (4, 8), (2, 4), (1, 2)]


def test_images_that_do_not_fit_are_refused(model, variables):
    with pytest.raises(ValueError, match=r"40x40 px do not fit: level 0's map 10x10.*resize them to 32x32"):
        apply(model, variables, jnp.zeros((1, 40, 40, 3)))
    with pytest.raises(ValueError, match=r"shape \(B, H, W, 3\), got \(32, 32, 3\)"):
        apply(model, variables, jnp.zeros((32, 32, 3)))
    with pytest.raises(ValueError, match=r"at least 32 px a side, got 31x64"):
        apply(create_model(TINY, pad_to_windows=True), variables, jnp.zeros((1, 31, 64, 3)))


def test_other_sizes_that_fill_whole_windows_run(model, variables):
    assert apply(model, variables, jnp.zeros((1, 64, 96, 3))).shape == (1, 3)


def test_pad_to_windows_changes_nothing_where_nothing_is_padded(model, variables, images):
    padded = create_model(TINY, pad_to_windows=True)
    np.testing.assert_array_equal(apply(padded, variables, images), apply(model, variables, images))


def test_padding_has_no_influence(variables, monkeypatch):
    images = jax.random.normal(jax.random.key(4), (2, 45, 71, 3))
    padded = create_model(TINY, pad_to_windows=True)
    expected = apply(padded, variables, images, method="features")
    assert [m.shape[1:3] for m in expected] == [(12, 18), (6, 9), (3, 5), (2, 3)]

    def pad_with_rubbish(x, window):
        zeros, mask = original(x, window)
        ones, _ = original(jnp.ones_like(x), window)
        return jnp.where(ones > 0, zeros, 50 * jax.random.normal(jax.random.key(0), zeros.shape)), mask

    original = level.pad
    monkeypatch.setattr(level, "pad", pad_with_rubbish)
    jax.clear_caches()
    for a, b in zip(apply(padded, variables, images, method="features"), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def dropouts(train: bool) -> dict[tuple, tuple]:
    """The active dropouts of a forward pass: {(path of their module, shape of what they drop): rate}."""
    model = create_model(TINY, dropout_rate=0.3, attention_dropout_rate=0.2)
    found = {}

    def record(call, arguments, options, context):
        module = context.module
        if isinstance(module, nn.Dropout) and not options.get("deterministic", module.deterministic):
            found["/".join(module.path[:-1]), arguments[0].shape] = module.rate
        return call(*arguments, **options)

    def forward(images):
        return model.init_with_output(jax.random.key(0), images, train=train)[0]

    with nn.intercept_methods(record):
        jax.eval_shape(forward, jax.ShapeDtypeStruct((3, 32, 32, 3), jnp.float32))
    return found


def test_dropout_is_everywhere_it_belongs():
    """Behind the stem, on attention weights, behind the projection and both layers of each MLP; in training only."""
    expected = {("", (3, 8, 8, 8)): 0.3}
    for index, (depth, heads, windows, tokens) in enumerate(
        zip(TINY.depths, TINY.num_heads, (4, 1, 1, 1), (16, 16, 4, 1), strict=True)
    ):
        channels = TINY.dims[index]
        for block in (f"levels_{index}/blocks_{number}" for number in range(depth)):
            expected[f"{block}/attn", (3, windows, heads, tokens, tokens)] = 0.2
            expected[f"{block}/attn", (3, windows, tokens, channels)] = 0.3
            expected[f"{block}/mlp", (3, windows, tokens, 3 * channels)] = 0.3
            expected[f"{block}/mlp", (3, windows, tokens, channels)] = 0.3
    assert dropouts(train=True) == expected
    assert dropouts(train=False) == {}


def test_every_rate_changes_the_training_output_and_none_the_evaluation(variables, images):
    plain = apply(create_model(TINY), variables, images)
    for name in ("dropout_rate", "attention_dropout_rate", "drop_path_rate"):
        model = create_model(TINY, **{name: 0.5})
        np.testing.assert_array_equal(apply(model, variables, images), plain)
        trained = apply(model, variables, images, train=True, rngs={"dropout": jax.random.key(0)})
        assert relative_difference(trained, plain) > 1e-3, name


def test_drop_path_drops_both_branches_of_every_block(variables, images, monkeypatch):
    model = create_model(TINY, drop_path_rate=0.5)
    blocks = sum(TINY.depths)

    @jax.jit
    def logits(scales):
        monkeypatch.setattr("gcvit_flax.model.gcvit.drop_path_scales", lambda *_: scales)
        return model.apply(variables, images, train=True, rngs={"dropout": jax.random.key(0)})

    whole = logits(np.ones((blocks, 2, 3), np.float32))
    for block, branch in np.ndindex(blocks, 2):
        scales = np.ones((blocks, 2, 3), np.float32)
        scales[block, branch] = 0
        assert relative_difference(logits(scales), whole) > 1e-4, (block, branch)


def test_init_params_follows_the_distributions_of_init(images):
    model = create_model(TINY, embed_dim=32, layer_scale=0.3)
    flatten = flax.traverse_util.flatten_dict
    slow = flatten(jax.jit(model.init)(jax.random.key(0), images[:1])["params"])
    fast = flatten(init_params(model, jax.random.key(0)))
    assert {path: leaf.shape for path, leaf in fast.items()} == {path: leaf.shape for path, leaf in slow.items()}
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(jax.tree.map(jax.typeof, fast)))
    for path, leaf in slow.items():
        if np.std(leaf) == 0:
            np.testing.assert_array_equal(fast[path], leaf, err_msg=str(path))
        elif leaf.size > 500:
            np.testing.assert_allclose(np.std(fast[path]), np.std(leaf), rtol=0.15, err_msg=str(path))
            # Uniform values are bounded, normal ones reach further: the largest tells them apart.
            np.testing.assert_allclose(np.abs(fast[path]).max(), np.abs(leaf).max(), rtol=0.45, err_msg=str(path))


def test_initial_values_are_the_official_ones():
    params = init_params(create_model("gcvit_xxtiny", num_classes=10), jax.random.key(0))
    assert abs(float(jnp.std(params["levels_2"]["blocks_0"]["attn"]["qkv"]["kernel"])) - 0.02) < 1e-3
    reduction = params["levels_1"]["downsample"]["reduction"]["kernel"]
    assert 0.99 < float(jnp.abs(reduction).max()) * (9 * 128) ** 0.5 <= 1.0
    stem = params["patch_embed"]["proj"]["bias"]
    assert 0.8 < float(jnp.abs(stem).max()) * 27**0.5 <= 1.0
