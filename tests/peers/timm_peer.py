"""timm's side of test_timm.py, to be run in the environment of requirements-timm.txt.

python timm_peer.py save FOLDER       random weights to FOLDER/peer.safetensors, peer.pth, compiled.pth, and peer.npz
python timm_peer.py load FILE INPUTS  the logits that FILE gives for the images in INPUTS, to FILE.npy
"""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from benchmarks.timm_import import timm


def logits(model: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model.eval()(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()


def save(folder: Path) -> None:
    torch.manual_seed(1)
    model = timm.create_model("gcvit_xxtiny")
    with torch.no_grad():
        for parameter in model.parameters():  # So that no scale is 1 and no bias 0.
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    images = np.random.default_rng(2).normal(size=(2, 224, 224, 3)).astype(np.float32)
    np.savez(folder / "peer.npz", images=images, logits=logits(model, images))
    save_file(model.state_dict(), folder / "peer.safetensors")
    torch.save(model.state_dict(), folder / "peer.pth")
    torch.save(torch.compile(model).state_dict(), folder / "compiled.pth")


def load(file: Path, inputs: Path) -> None:
    model = timm.create_model("gcvit_xxtiny")
    state = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
    model.load_state_dict(state, strict=True)
    np.save(f"{file}.npy", logits(model, np.load(inputs)["images"]))


if __name__ == "__main__":
    command, *paths = sys.argv[1], *map(Path, sys.argv[2:])
    {"save": save, "load": load}[command](*paths)
