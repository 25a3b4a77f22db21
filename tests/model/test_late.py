"""Which form of an operation a program has, by its platform and by who divides it among devices."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from gcvit_flax.model.kernels.late import shapes_of, traced_late


def as_kernel(x):
    return x + 1


def by_layers(x):
    return x + 2


def mesh_of(count):
    return jax.make_mesh((count,), ("batch",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:count])


def by_shard_map(function):
    part = PartitionSpec("batch")
    return jax.jit(jax.shard_map(function, mesh=mesh_of(2), in_specs=part, out_specs=part))


@pytest.mark.parametrize(
    ("transform", "devices", "expected"),
    [
        (lambda function: function, 1, 1),
        (jax.jit, 1, 1),
        (jax.jit, 2, 2),  # XLA divides the program, and cannot divide a kernel.
        (by_shard_map, 2, 1),
    ],
)
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_a_kernel_is_for_its_platform_and_for_programs_of_one_device(transform, devices, expected, platform):
    function = transform(lambda x: traced_late(as_kernel, by_layers, shapes_of(x), x, platform=platform))
    zeros = jax.device_put(np.zeros(4, np.float32), NamedSharding(mesh_of(devices), PartitionSpec("batch")))
    assert function(zeros).tolist() == [expected if platform == "cpu" else 2] * 4
