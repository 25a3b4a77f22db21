"""The kind of a weight file, recognized by its content and never by its name."""

import contextlib
import dataclasses
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gcvit_flax.config import Size
from gcvit_flax.errors import UserError
from gcvit_flax.weights.archive import open_zip
from gcvit_flax.weights.keras_file import CONFIG_MEMBER, OPTIMIZER, WEIGHTS_MEMBER, open_hdf5, open_keras_zip
from gcvit_flax.weights.names import KERAS_CLASSES
from gcvit_flax.weights.safetensors_file import open_safetensors
from gcvit_flax.weights.tensors import Tensor
from gcvit_flax.weights.torch_file import open_torch
from gcvit_flax.weights.wrappers import without_wrappers

WEIGHT_FILE_TYPES = ".keras, .weights.h5, .h5, .pth, .pth.tar or .safetensors"

# Known parts of a file that are not parameters of the network.
_KNOWN_BUFFERS = ("relative_position_index", "seed_generator", "n_averaged")

_OTHER_MODELS = (
    ("a Swin Transformer", "layers.0.blocks.0.attn.relative_position_bias_table"),
    ("a ConvNeXt", "stages.0.blocks.0.conv_dw"),
    ("a ConvNeXt", "stages.0.0.dwconv"),
    ("a MaxViT", "stages.0.blocks.0.attn_block"),
    ("a Vision Transformer", "cls_token"),
    ("a Vision Transformer", "blocks.0.attn.qkv"),
    ("a ResNet", "layer1.0.conv1"),
    ("a ResNet", "conv2_block1_1_conv"),
    ("an EfficientNet", "block2a_expand_conv"),
    ("a VGG or AlexNet", "features.0."),
    ("a language model", "embeddings.word_embeddings"),
    ("a language model", "transformer.h.0"),
    ("keras_cv_attention_models' GCViT, which is not supported", "stack1_block1"),
)


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """An open weight file: its kind, its tensors by name, and its own description of the network."""

    container: str  # In words, for the report.
    family: str  # "official", "timm", "keras_io", "gcvit_tf", "keras_subclass" or "keras2".
    tensors: Mapping[str, Tensor]
    skipped: tuple[str, ...]  # Names of known tensors that are not parameters.
    settings: Mapping[str, Any]  # The network's constructor arguments in a .keras file, else empty.
    image_size: Size | None

    @property
    def torch(self) -> bool:
        """Whether its tensors have the axes in PyTorch's order."""
        return self.family in ("official", "timm")


@contextlib.contextmanager
def open_weight_file(path: Path, *, ema: bool = False) -> Iterator[WeightFile]:
    """The weight file at `path`, of any family; its tensors can be read inside the block.

    Raises:
      UserError: `path` is not a weight file, is damaged, holds another model or, with `ema`, no averaged weights.
    """
    container = _container(path)
    if ema and container != "PyTorch":
        raise UserError(f"{path} is a {container} file, which holds one set of weights: leave --ema out")
    with contextlib.ExitStack() as stack:
        config: dict[str, Any] = {}
        keras2 = False
        if container == "Keras 3 .keras":
            tensors, config = stack.enter_context(open_keras_zip(path))
        elif container == "HDF5":
            tensors, keras2 = stack.enter_context(open_hdf5(path, path))
            container = "Keras 2 .h5" if keras2 else "Keras 3 .weights.h5"
        elif container == "PyTorch":
            tensors = stack.enter_context(open_torch(path, ema=ema))
        else:
            tensors = stack.enter_context(open_safetensors(path))
        tensors = without_wrappers(tensors)
        skipped = tuple(sorted(name for name in tensors if _is_known_buffer(name)))
        weights = {name: tensor for name, tensor in tensors.items() if name not in skipped}
        family = _family(path, weights, keras2)
        network = _network(config)
        settings = network.get("config")
        settings = settings if isinstance(settings, dict) else {}
        yield WeightFile(container, family, weights, skipped, settings, _build_size(network))


def _container(path: Path) -> str:
    if path.is_dir():
        raise UserError(f"{path} is a folder: expected a weight file; to write a model folder as one, pass --to")
    if not path.is_file():
        raise UserError(f"{path} is not a file: expected weights ({WEIGHT_FILE_TYPES}), a URL or a published name")
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:  # It may have been removed since, or be unreadable.
        raise UserError(f"{path} cannot be read ({error.strerror or error}): expected a weight file") from error
    if start[:4] == b"PK\x03\x04":
        with open_zip(path) as archive:
            return _zip_container(path, archive)
    if start[:8] == b"\x89HDF\r\n\x1a\n":
        return "HDF5"
    if start[8:10] == b'{"':
        return "safetensors"
    if start[:1] == b"\x80":
        raise UserError(f"{path} is a bare pickle, PyTorch's format before 1.6: load and save it with a newer PyTorch")
    raise UserError(f"{path} is not a weight file that this program recognizes: expected {WEIGHT_FILE_TYPES}")


def _zip_container(path: Path, archive: zipfile.ZipFile) -> str:
    names = archive.namelist()
    if WEIGHTS_MEMBER in names and CONFIG_MEMBER in names:
        return "Keras 3 .keras"
    if any(name.endswith("/data.pkl") for name in names):
        return "PyTorch"
    raise UserError(f"{path} is a zip archive without weights: expected a .keras or a PyTorch file")


def _is_known_buffer(name: str) -> bool:
    return bool(OPTIMIZER.search(name)) or any(part in name for part in _KNOWN_BUFFERS)


def _family(path: Path, tensors: Mapping[str, Tensor], keras2: bool) -> str:
    names = tensors.keys()
    if any("/q_global_gen/" in name for name in names):
        for family, classes in KERAS_CLASSES.items():
            if any(name.startswith(f"layers/{classes['level']}/") for name in names):
                return family
        return "keras_subclass"
    if any(name.startswith("levels.0.") for name in names) or "patch_embed.conv_down.reduction.weight" in names:
        return "keras2" if keras2 else "official"
    if any(".global_block.blocks.conv" in name for name in names):
        return "timm"
    looks = next((model for model, part in _OTHER_MODELS if any(part in name for name in names)), "another network")
    examples = ", ".join(sorted(names)[:3])
    raise UserError(
        f"{path} looks like {looks}: its {len(names)} tensors are {examples} ...; expected a GCViT's weights"
    )


def _network(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a .keras file's config.json that describes the network, which another model may wrap."""
    nodes: list[Any] = [config]
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict):
            arguments = node.get("config")
            if isinstance(arguments, dict) and {"window_size", "depths"} <= arguments.keys():
                return node
            nodes.extend(node.values())
        elif isinstance(node, list):
            nodes.extend(node)
    return config


def _build_size(network: Mapping[str, Any]) -> Size | None:
    """The (height, width) for which the network was built, if a .keras file states it."""
    build = network.get("build_config")
    shape = build.get("input_shape") if isinstance(build, dict) else None
    if isinstance(shape, list) and len(shape) == 4 and all(type(side) is int and side > 0 for side in shape[1:3]):
        return shape[1], shape[2]
    return None
