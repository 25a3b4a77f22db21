"""The most probable classes of logits, and the names of the 1000 ImageNet classes in the order of their indices."""

import importlib.resources

import numpy as np


def best_classes(logits: np.ndarray, count: int) -> list[tuple[int, float]]:
    """The `count` most probable classes of one image's logits (classes,), best first, each with its probability."""
    weights = np.exp(logits - logits.max())
    probabilities = weights / weights.sum()
    return [(int(i), float(probabilities[i])) for i in np.argsort(-probabilities, kind="stable")[:count]]


def imagenet_classes() -> list[str]:
    """The 1000 names of ImageNet-1k (the first word of each WordNet synset, made distinct where two agree)."""
    return (
        (importlib.resources.files("gcvit_flax") / "data" / "assets" / "imagenet_classes.txt").read_text().splitlines()
    )
