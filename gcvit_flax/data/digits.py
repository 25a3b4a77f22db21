"""The handwritten digits that are part of the package (assets/README.md)."""

import importlib.resources

import numpy as np

from gcvit_flax.data.sources import Dataset, ListSource, hold_out


def open_digits(val_fraction: float) -> Dataset:
    """The 1,797 digits, uint8 (8, 8), with a stratified `val_fraction` held out."""
    file = importlib.resources.files("gcvit_flax") / "data" / "assets" / "digits.npz"
    with file.open("rb") as stream, np.load(stream) as arrays:
        images, labels = arrays["images"], arrays["labels"].astype(np.int64)
    images = (images.astype(np.float32) * (255 / 16)).round().astype(np.uint8)  # Gray levels are 0..16.
    examples = ListSource(images, labels, [f"digit {i}" for i in range(len(labels))])
    return hold_out(examples, labels, tuple("0123456789"), val_fraction)
