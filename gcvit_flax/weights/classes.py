"""The names of the 1000 ImageNet classes, in the order of their indices."""

import importlib.resources


def imagenet_classes() -> list[str]:
    """The 1000 names of ImageNet-1k (the first word of each WordNet synset, told apart where two agree)."""
    return (importlib.resources.files("gcvit_flax") / "data" / "imagenet_classes.txt").read_text().splitlines()
