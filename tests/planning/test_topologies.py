"""Names of devices, and compilers that are not installed."""

import pytest
from jax._src import xla_bridge

from gcvit_flax.errors import UserError
from gcvit_flax.planning.chips import GPUS, TPUS, gpu_target
from gcvit_flax.planning.topologies import open_topology


@pytest.fixture
def asked(monkeypatch):
    """What the compilers are asked for; they are not installed."""
    found = []

    def no_tpus():
        found.append("tpu")

    monkeypatch.setattr(xla_bridge, "get_tpu_library_path", no_tpus)
    monkeypatch.setattr(xla_bridge, "_topology_factories", {})
    return found


@pytest.mark.parametrize(
    "name", ["v5e:1x1", "v5e:4x8", "v6e:16x16", "V5E:2x2", "v4:2x2x1", "v4:2x2x4", "v5p:4x4x8", "v5p:12x16x16"]
)
def test_slices_that_exist_ask_for_libtpu(name, asked):
    with pytest.raises(UserError, match=r'libtpu.* not installed: pip install "\.\[plan\]"'):
        open_topology(name)
    assert asked == ["tpu"]


@pytest.mark.parametrize("name", ["h100", "h200", "h100:8", "H200:1"])
def test_gpus_ask_for_the_plugin(name, asked):
    with pytest.raises(UserError, match=r'CUDA plugin.* not installed: pip install "jax\[cuda13\]"'):
        open_topology(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", "v5e", "v5e:", "v5e:32", "v5e:3x3", "v5e:32x32", "v5e:4x4x4", "v5e: 4x8", "v5e:4x8x", "v5litepod-32"),
        *("v4:4x4", "v4:2x2x3", "v4:0x4x4", "v4:16x16x32", "v5p:4x4x-4", "v9:2x2"),
        *("a100", "h100:", "h100:0", "h100:9", "h100:16", "h100x8"),
    ],
)
def test_devices_that_do_not_exist(name, asked):
    with pytest.raises(UserError) as refusal:
        open_topology(name)
    message = str(refusal.value)
    assert message.startswith(f"no devices are called {name!r}: expected v5e:4x8 or v6e:4x8 (1x1, 2x2, ")
    assert message.endswith("h100 or h200, or several of a machine's GPUs as in h100:8")
    assert not asked


def test_the_message_names_every_kind(asked):
    with pytest.raises(UserError) as refusal:
        open_topology("tpu")
    assert all(kind in str(refusal.value) for kind in (*TPUS, *GPUS))


def test_gpus_are_described_for_the_compiler():
    text = gpu_target(GPUS["h200"])
    assert 'name: "NVIDIA H200"' in text and f"device_memory_size: {143_771 * 2**20}\n" in text
    assert text.count("{") == text.count("}") and "{{" not in text
