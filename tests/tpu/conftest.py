"""TPUs that are not there, for which libtpu compiles: make test-tpu."""

import functools
import os
from collections.abc import Callable, Iterator
from unittest import mock

import jax
import pytest

from gcvit_flax.planning.environment import prepare_environment
from gcvit_flax.planning.topologies import Topology, open_topology

# One slice of each generation, two of which are of several hosts.
SLICES = ("v5e:4x8", "v4:2x2x4", "v5p:2x2x1", "v6e:2x2")


@pytest.fixture(scope="session", autouse=True)
def prepared() -> Iterator[None]:
    """The compiler is quiet, and its programs, which cannot be read back, are not kept."""
    with mock.patch.dict(os.environ):
        prepare_environment()
        jax.config.update("jax_enable_compilation_cache", False)
        yield
        jax.config.update("jax_enable_compilation_cache", True)


@pytest.fixture(scope="session")
def tpus(prepared) -> Callable[[str], Topology]:
    """Slices by their names."""
    return functools.cache(open_topology)


@pytest.fixture(params=SLICES)
def tpu(request, tpus) -> Topology:
    """Each of SLICES: `jax.sharding.SingleDeviceSharding(tpu.devices[0])` compiles for one of its chips."""
    return tpus(request.param)
