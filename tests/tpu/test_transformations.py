"""What JAX's transformations make of a block, compiled for TPUs: which take the kernels, and which the layers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gcvit_flax.model.block import Block

pytestmark = [pytest.mark.tpu, pytest.mark.parametrize("tpu", ["v5e:4x8"], indirect=True)]

BLOCK = Block(64, 2, (7, 7), 3.0, True, None, "per_head", 0.0, 0.0, None, jnp.bfloat16)
SHAPES = (32, 4, 49, 64), (32, 49, 64)
GRADIENT_KERNELS = 3  # Both branches' gradients, and the first's values.


def loss(params, x, query):
    return BLOCK.apply(params, x, query, train=True).astype(jnp.float32).sum()


def mean(params, x, query):
    return jax.lax.pmean(loss(params, x, query), "batch")


def curvature(*arguments):
    return jax.jvp(jax.grad(loss), arguments, arguments)[1]


def each_example(params, x, query):
    return jax.vmap(lambda x, query: jax.grad(loss)(params, x[None], query[None]))(x, query)


def compiled(function, whole, divided):
    """The text of the program for parameters placed as `whole` and windows and queries placed as `divided`."""
    windows = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=divided) for shape in SHAPES]
    zeros = [jnp.zeros((1, *shape[1:])) for shape in SHAPES]
    params = jax.eval_shape(lambda: BLOCK.init(jax.random.key(0), *zeros, train=False))
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), params)
    return jax.jit(function).lower(params, *windows).compile().as_text()


@pytest.mark.parametrize("function", [jax.grad(loss), curvature, each_example])
def test_one_device_takes_the_kernels(tpu, function):
    place = jax.sharding.SingleDeviceSharding(tpu.devices[0])
    assert compiled(function, place, place).count("tpu_custom_call") >= GRADIENT_KERNELS


@pytest.mark.parametrize("divide", ["jit", "shard_map"])
def test_several_devices(tpu, divide):
    mesh = Mesh(np.array(tpu.devices), ("batch",))
    whole, divided = PartitionSpec(), PartitionSpec("batch")
    functions = {
        "jit": jax.grad(loss),
        "shard_map": jax.shard_map(jax.grad(mean), mesh=mesh, in_specs=(whole, divided, divided), out_specs=whole),
    }
    text = compiled(functions[divide], NamedSharding(mesh, whole), NamedSharding(mesh, divided))
    assert text.count("tpu_custom_call") == {"jit": 0, "shard_map": GRADIENT_KERNELS}[divide]
    assert set(re.findall(r" (all-\w+|collective-\w+|reduce-scatter)\(", text)) == {"all-reduce"}
