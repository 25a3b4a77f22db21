"""The package gcvit's side of test_keras.py, to be run in the environment of requirements.txt.

python gcvit_peer.py save FOLDER         random weights to FOLDER/peer.keras and peer.weights.h5, logits to peer.npz
python gcvit_peer.py load FILE... INPUTS  the logits that each FILE gives for the images in INPUTS, to FILE.npy
"""

import os
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
from gcvit import GCViTXXTiny


def build(seed: int) -> keras.Model:
    """The package's gcvit_xxtiny, with noise added to every weight, so that no scale is 1 and no bias 0."""
    keras.utils.set_random_seed(seed)
    model = GCViTXXTiny(head_act=None)
    draw = np.random.default_rng(seed).normal
    for weight in model.weights:
        weight.assign(weight.numpy() + draw(0, 0.05, weight.shape).astype(np.float32))
    return model


def save(folder: Path) -> None:
    model = build(seed=1)
    images = np.random.default_rng(2).normal(size=(2, 224, 224, 3)).astype(np.float32)
    np.savez(folder / "peer.npz", images=images, logits=model(images).numpy())
    model.save(folder / "peer.keras")
    model.save_weights(folder / "peer.weights.h5")


def load(files: list[Path], inputs: Path) -> None:
    images = np.load(inputs)["images"]
    model = build(seed=3)
    for file in files:
        model.load_weights(file)
        np.save(f"{file}.npy", model(images).numpy())
        if file.suffix == ".keras":  # It must load as a whole model too, from its config.json.
            whole = keras.models.load_model(file)
            np.testing.assert_array_equal(whole(images).numpy(), model(images).numpy())


if __name__ == "__main__":
    command, *paths = sys.argv[1], *map(Path, sys.argv[2:])
    if command == "save":
        save(*paths)
    else:
        load(paths[:-1], paths[-1])
