"""Parity with the package gcvit under TensorFlow."""

import jax
import numpy as np
import pytest

from gcvit_flax.weights.convert import convert
from gcvit_flax.weights.model_folder import load_model
from gcvit_flax.weights.write import write_weights

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def peer(tmp_path_factory, run_peer):
    folder = tmp_path_factory.mktemp("peer")
    run_peer("PEERS_PYTHON", "gcvit_peer.py", "save", folder)
    return folder


def test_the_same_logits_there_and_back(peer, run_peer, subtests):
    stored = np.load(peer / "peer.npz")
    images, expected = stored["images"], stored["logits"]
    scale = np.abs(expected).max()
    for name in ("peer.keras", "peer.weights.h5"):
        with subtests.test(f"{name} read"):
            report = convert(peer / name, peer / "model", reference="gcvit_tf", variant="gcvit_xxtiny", force=True)
            assert report.family == "gcvit_tf"
            model, variables = load_model(peer / "model")
            logits = np.asarray(jax.jit(model.apply)(variables, images))
            difference = np.abs(logits - expected).max() / scale
            print(f"{name}: largest difference of logits, relative to the largest, {difference:.2g}")
            assert difference < 1e-4
    written = [peer / "back.keras", peer / "back.weights.h5"]
    for path in written:
        write_weights(peer / "model", path, "gcvit_tf")
    run_peer("PEERS_PYTHON", "gcvit_peer.py", "load", *written, peer / "peer.npz")
    for path in written:
        with subtests.test(f"{path.name} written"):
            # The same weights in the same program.
            np.testing.assert_allclose(np.load(f"{path}.npy"), expected, rtol=0, atol=1e-6 * scale)
