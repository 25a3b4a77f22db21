"""Parity with timm under PyTorch."""

import jax
import numpy as np
import pytest

from gcvit_flax.weights.convert import convert
from gcvit_flax.weights.model_folder import load_model
from gcvit_flax.weights.write import write_weights

pytestmark = pytest.mark.timm


@pytest.fixture(scope="module")
def peer(tmp_path_factory, run_peer):
    folder = tmp_path_factory.mktemp("peer")
    run_peer("TIMM_PYTHON", "timm_peer.py", "save", folder)
    return folder


def test_the_same_logits_there_and_back(peer, run_peer):
    stored = np.load(peer / "peer.npz")
    images, expected = stored["images"], stored["logits"]
    scale = np.abs(expected).max()
    for name in ("peer.safetensors", "peer.pth", "compiled.pth"):
        report = convert(peer / name, peer / name.replace(".", "_"), variant="gcvit_xxtiny")
        assert report.family == "timm"
    model, variables = load_model(peer / "peer_pth")
    for other in ("peer_safetensors", "compiled_pth"):
        jax.tree.map(np.testing.assert_array_equal, variables, load_model(peer / other)[1])
    logits = np.asarray(jax.jit(model.apply)(variables, images))
    difference = np.abs(logits - expected).max() / scale
    print(f"largest difference of logits, relative to the largest, {difference:.2g}")
    assert difference < 1e-4

    for name in ("back.safetensors", "back.pth"):
        write_weights(peer / "peer_pth", peer / name, "timm")
        run_peer("TIMM_PYTHON", "timm_peer.py", "load", peer / name, peer / "peer.npz")
        np.testing.assert_array_equal(np.load(peer / f"{name}.npy"), expected)
