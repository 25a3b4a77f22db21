"""What JAX's transformations do with the network, beside one gradient: its kernels have gradients written by hand."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from jax.test_util import check_grads
from model.test_kernels import attention_by_heads
from small import TINY

import gcvit_flax
from gcvit_flax.model.kernels.convolution import depthwise_conv3x3, strided_conv3x3
from gcvit_flax.model.kernels.dense import dense
from gcvit_flax.model.kernels.pointwise import gelu, layer_norm

MASK = jnp.ones((3, 4), bool).at[-1, 2:].set(False)
KERNELS = {
    "gelu": (gelu, [(3, 5)]),
    "layer norm": (lambda *x: layer_norm(*x, 1e-5), [(3, 5), (5,), (5,)]),
    "dense": (lambda *x: dense(*x, None), [(2, 3, 5), (5, 4)]),
    "depthwise convolution": (depthwise_conv3x3, [(2, 4, 5, 3), (3, 3, 1, 3)]),
    "strided convolution": (strided_conv3x3, [(2, 5, 4, 3), (3, 3, 3, 2)]),
    "local attention": (attention_by_heads, [(2, 3, 2, 4, 2)] * 3 + [(2, 4, 4)]),
    "global attention": (
        lambda *x: attention_by_heads(*x, mask=MASK),
        [(2, 2, 4, 2), (2, 3, 2, 4, 2), (2, 3, 2, 4, 2), (1, 4, 4)],
    ),
}


@pytest.fixture(params=KERNELS.values(), ids=KERNELS.keys())
def kernel(request):
    function, shapes = request.param
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        yield jax.jit(function), [jnp.asarray(rng.normal(size=shape)) for shape in shapes]


def test_first_and_second_derivatives_in_both_modes(kernel):
    function, arguments = kernel
    assert function(*arguments).dtype == jnp.float64
    check_grads(function, arguments, order=2, modes=("fwd", "rev"), rtol=1e-5, atol=1e-5)


def test_derivatives_of_many_at_once(kernel):
    function, (first, *rest) = kernel
    many = jnp.stack([first, 2 * first, -first])
    weights = np.random.default_rng(1).normal(size=jax.eval_shape(function, first, *rest).shape)

    def curvature(x, *rest):
        return jax.jvp(jax.grad(lambda x: (function(x, *rest) * weights).sum()), (x,), (x,))[1]

    def summed(derivative):
        return lambda *x: jax.vmap(derivative, in_axes=(0, *[None] * len(rest)))(*x).sum()

    # vmap inside of the gradient and outside of it, and both around another.
    found = [
        jax.vmap(jax.grad(lambda x: (function(x, *rest) * weights).sum()))(many),
        jax.grad(lambda x: (jax.vmap(lambda x: function(x, *rest))(x) * weights).sum())(many),
        jax.vmap(lambda x: curvature(x, *rest))(many),
        jax.grad(summed(curvature))(many, *rest),
    ]
    gradients = [jax.grad(lambda x: (function(x, *rest) * weights).sum())(x) for x in many]
    curvatures = [curvature(x, *rest) for x in many]
    thirds = [jax.grad(lambda x: curvature(x, *rest).sum())(x) for x in many]
    for actual, expected in zip(found, [gradients, gradients, curvatures, thirds], strict=True):
        np.testing.assert_allclose(actual, jnp.stack(expected), rtol=1e-9, atol=1e-9)


def test_gradients_of_mapped_maps(kernel):
    """The two maps go along different axes, so that their order matters."""
    function, (first, *rest) = kernel
    grid = jnp.stack([jnp.stack([scale * first, -scale * first], -1) for scale in (1, 2, 3)])
    weights = np.random.default_rng(1).normal(size=jax.eval_shape(function, first, *rest).shape)
    mapped = jax.vmap(jax.vmap(lambda x: function(x, *rest)), in_axes=-1)
    found = jax.grad(lambda x: (mapped(x) * weights).sum())(grid)
    gradient = jax.grad(lambda x: (function(x, *rest) * weights).sum())
    expected = [jnp.stack([gradient(x[..., column]) for column in range(2)], -1) for x in grid]
    np.testing.assert_allclose(found, jnp.stack(expected), rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def network():
    model = gcvit_flax.create_model(TINY)
    params = gcvit_flax.init_params(model, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: p + 0.05 * rng.normal(size=p.shape).astype(np.float32), params)
    return model, params, jnp.asarray(rng.normal(size=(4, 32, 32, 3)), jnp.float32)


def loss_of(model):
    return lambda params, images: (model.apply({"params": params}, images, train=False) ** 2).mean()


def test_a_directional_derivative_is_the_gradient_times_the_direction(network):
    model, params, images = network
    rng = np.random.default_rng(1)
    direction = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), params)
    loss = lambda params: loss_of(model)(params, images)  # noqa: E731
    slope = jax.jit(lambda params: jax.jvp(loss, (params,), (direction,))[1])(params)
    gradient = jax.jit(jax.grad(loss))(params)
    expected = sum(map(np.vdot, jax.tree.leaves(gradient), jax.tree.leaves(direction)))
    np.testing.assert_allclose(slope, expected, rtol=1e-4)


def on_devices(devices):
    mesh = jax.make_mesh((len(devices),), ("batch",), (jax.sharding.AxisType.Auto,), devices=devices)
    return mesh, NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("batch"))


def by_jit(loss, devices):
    _, whole, divided = on_devices(devices)
    return jax.jit(jax.grad(loss), in_shardings=(whole, divided), out_shardings=whole)


def by_shard_map(loss, devices):
    mesh, *_ = on_devices(devices)
    mean = lambda params, images: jax.lax.pmean(loss(params, images), "batch")  # noqa: E731
    whole, divided = PartitionSpec(), PartitionSpec("batch")
    return jax.jit(jax.shard_map(jax.grad(mean), mesh=mesh, in_specs=(whole, divided), out_specs=whole))


@pytest.mark.parametrize("divide", [by_jit, by_shard_map])
def test_a_batch_on_several_devices_takes_one_all_reduce(network, divide):
    model, params, images = network
    loss = loss_of(model)
    step = divide(loss, jax.devices()[:4]).lower(params, images).compile()
    collectives = re.findall(r" (all-\w+|collective-\w+|reduce-scatter)\(", step.as_text())
    assert collectives == ["all-reduce"]
    expected = jax.jit(jax.grad(loss))(params, images)
    for actual, wanted in zip(*map(jax.tree.leaves, (step(params, images), expected)), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-3, atol=1e-6)


def test_gradients_of_each_example(network):
    model, params, images = network
    loss = loss_of(model)
    each = jax.jit(jax.vmap(jax.grad(lambda params, image: loss(params, image[None])), (None, 0)))(params, images)
    summed = jax.jit(jax.grad(lambda params: loss(params, images)))(params)
    for actual, expected in zip(*map(jax.tree.leaves, (each, summed)), strict=True):
        np.testing.assert_allclose(actual.mean(0), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float16])
def test_other_floating_point_types(network, dtype):
    model, params, images = network
    expected = jax.jit(model.apply)({"params": params}, images)
    with jax.enable_x64(True):
        other = gcvit_flax.create_model(TINY, dtype=dtype)
        images, params = (jax.tree.map(lambda x: x.astype(dtype), tree) for tree in (images, params))
        gradient = jax.jit(jax.grad(lambda p: other.apply({"params": p}, images).sum()))(params)
        logits = jax.jit(other.apply)({"params": params}, images)
    assert logits.dtype == jnp.promote_types(dtype, jnp.float32)
    assert all(leaf.dtype == dtype and jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    np.testing.assert_allclose(logits, expected, atol={jnp.float64: 1e-5, jnp.float16: 2e-2}[dtype])


def test_integer_images_are_refused(network):
    model, params, images = network
    with pytest.raises(gcvit_flax.UserError, match=r"int32.*gcvit_flax\.preprocess"):
        model.apply({"params": params}, images.astype(jnp.int32))
