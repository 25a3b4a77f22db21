"""The names of a network's tensors without what PyTorch programs that wrap it put before and between them."""

from collections.abc import Mapping
from typing import TypeVar

_COMPILED = "_orig_mod."  # Of torch.compile, which may wrap parts of the network too.
_STEMS = ("patch_embed.proj.weight", "stem.conv1.weight")  # The official release's and timm's, in every network.

Value = TypeVar("Value")


def without_wrappers(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """`tensors` with the names that the network itself gives them.

    A wrapper adds a prefix to all names of the network: "module." if it was trained on several devices, in Lightning
    the name of an attribute, such as "model.". The stem's weight shows which; other tensors keep their names.
    """
    names = {name: name.replace(_COMPILED, "") for name in tensors}
    prefixes = {name.removesuffix(stem) for name in names.values() for stem in _STEMS if name.endswith(stem)}
    prefix = prefixes.pop() if len(prefixes) == 1 else ""
    return {names[name].removeprefix(prefix): tensor for name, tensor in tensors.items()}
