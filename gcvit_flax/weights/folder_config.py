"""The config.json of a model folder: everything but the parameters, readable by people and by `load_model`."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

import gcvit_flax
from gcvit_flax.config import GCViTConfig, Preprocessing
from gcvit_flax.errors import UserError, summarize_error
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.storage import check_reachable
from gcvit_flax.variants import variant_name
from gcvit_flax.weights.checksums import checksum
from gcvit_flax.weights.published import PUBLISHED

FOLDER_CONFIG_NAME = "config.json"
FORMAT = "gcvit_flax model folder"
FORMAT_VERSION = 1
_CHECKSUM = "checksum"  # Of the whole file with this entry empty.
_KEYS = (
    "format_version",
    "variant",
    "reference",
    "config",
    "preprocessing",
    "class_names",
    "provenance",
    "weights_licence",
    "parameter_count",
    "gcvit_flax_version",
    "checkpoint",
)


def make_folder_config(
    model: GCViT,
    *,
    class_names: Sequence[str] | None,
    provenance: Mapping[str, Any] | None,
    weights_licence: str | None,
    parameter_count: int,
    checkpoint: str,
) -> dict[str, Any]:
    """The content of config.json for `model`; `checkpoint` is the name of the Orbax folder beside it.

    Raises:
      UserError: the class names are not as many as the head's classes, or the means not as many as the channels.
    """
    if class_names is not None and len(class_names) != model.config.num_classes:
        raise UserError(
            f"{len(class_names)} class names for a head of {model.config.num_classes} classes: give one name per class"
        )
    if model.preprocessing.channels != model.config.in_channels:
        raise UserError(
            f"the preprocessing has mean and std of {model.preprocessing.channels} channels, and the network takes "
            f"{model.config.in_channels}: give the model a preprocessing for them"
        )
    return {
        "format": FORMAT,
        _CHECKSUM: "",  # `folder_config_text` fills it in.
        "format_version": FORMAT_VERSION,
        "gcvit_flax_version": gcvit_flax.__version__,
        "variant": variant_name(model.config),
        "reference": model.config.reference,
        "parameter_count": parameter_count,
        "checkpoint": checkpoint,
        "config": dataclasses.asdict(model.config),
        "preprocessing": dataclasses.asdict(model.preprocessing),
        "weights_licence": weights_licence,
        "provenance": None if provenance is None else dict(provenance),
        "class_names": None if class_names is None else list(class_names),
    }


def folder_config_text(folder_config: Mapping[str, Any]) -> str:
    """`folder_config` as JSON for people to read, with its checksum and each list of numbers on one line."""
    # JSON strings contain no line breaks, so a match never begins inside a string.
    numbers = re.compile(r"\[\n[-+\d\s.,eE]+\]")
    text = numbers.sub(lambda hit: " ".join(hit.group().split()), json.dumps(folder_config, indent=2)) + "\n"
    return text.replace(_checksum_entry(""), _checksum_entry(checksum(text.encode())), 1)


def _checksum_entry(value: str) -> str:
    return f'"{_CHECKSUM}": "{value}"'


def _check_undamaged(config_path: epath.Path, content: bytes, folder_config: Mapping[str, Any]) -> None:
    """Raises UserError unless `content` has its checksum, or none and nothing that could be a damaged one."""
    if _CHECKSUM in folder_config:
        stored = str(folder_config[_CHECKSUM])
        actual = checksum(content.replace(_checksum_entry(stored).encode(), _checksum_entry("").encode(), 1))
        problem = None if stored == actual else f"its checksum is {actual} instead of {stored}"
        unwanted = _CHECKSUM
    else:
        unwanted = ", ".join(sorted(folder_config.keys() - {*_KEYS, "format"}))
        problem = f"it has the unknown entry {unwanted}" if unwanted else None
    if problem:
        raise UserError(
            f"{config_path} is damaged or was edited by hand ({problem}): remove its entry {unwanted} to accept it as "
            "it is, or convert or train the model again"
        )


def is_model_folder(folder: epath.Path) -> bool:
    """Whether `folder` holds a config.json that this package wrote, of any format version."""
    try:
        return json.loads((folder / FOLDER_CONFIG_NAME).read_text()).get("format") == FORMAT
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def read_folder_config(path: epath.PathLike) -> dict[str, Any]:
    """The content of config.json in the model folder `path`, as `make_folder_config` made it.

    Raises:
      UserError: `path` is not a model folder, or its config.json is damaged or of another format version.
    """
    check_reachable(path)
    folder = epath.Path(path)
    config_path = folder / FOLDER_CONFIG_NAME
    if not folder.is_dir():
        raise UserError(
            f"{path} is not a model folder: no such directory; convert weights or train a model first, or give one of "
            f"the published names {', '.join(PUBLISHED)}"
        )
    try:
        content = config_path.read_bytes()
        folder_config = json.loads(content)
    except FileNotFoundError:
        raise UserError(
            f"{path} is not a model folder: it has no {FOLDER_CONFIG_NAME}; name the folder that holds one"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{config_path} is not JSON ({summarize_error(error)}): convert or train the model again"
        ) from None
    if not isinstance(folder_config, dict) or folder_config.get("format") != FORMAT:
        raise UserError(f'{config_path} is not a model folder\'s: expected "format": "{FORMAT}"; name another folder')
    _check_undamaged(config_path, content, folder_config)
    if folder_config.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{config_path} has format version {folder_config.get('format_version')}, but this gcvit_flax "
            f"({gcvit_flax.__version__}) reads {FORMAT_VERSION}: use the version that wrote it "
            f"({folder_config.get('gcvit_flax_version')})"
        )
    missing = sorted(set(_KEYS) - folder_config.keys())
    if missing:
        raise UserError(f"{config_path} lacks {', '.join(missing)}: convert or train the model again")
    config, _ = parse_folder_config(folder_config, config_path)
    classes, checkpoint = folder_config["class_names"], folder_config["checkpoint"]
    named = classes is None or (
        isinstance(classes, list) and len(classes) == config.num_classes and all(isinstance(x, str) for x in classes)
    )
    for name, kind in (("provenance", dict), ("weights_licence", str), ("variant", str), ("reference", str)):
        if not isinstance(folder_config[name], kind | None):
            raise UserError(f"{config_path} has a wrong {name}: convert or train the model again")
    # A forged config.json must not name a checkpoint outside the folder.
    if (
        not named
        or not isinstance(checkpoint, str)
        or "/" in checkpoint
        or "\0" in checkpoint
        or checkpoint in ("", ".", "..")
    ):
        raise UserError(f"{config_path} has wrong class_names or checkpoint: convert or train the model again")
    return folder_config


def class_names(folder_config: Mapping[str, Any]) -> list[str]:
    """The class names in `folder_config` by index, or "class 0", "class 1" ... if it has none."""
    return folder_config["class_names"] or [f"class {index}" for index in range(folder_config["config"]["num_classes"])]


def held_out_fraction(folder_config: Mapping[str, Any], chosen: float | None) -> float:
    """The share of the data to hold out: `chosen`, or by default the training run's.

    Another could hold out images that were trained on.
    """
    return (folder_config["provenance"] or {}).get("val_fraction", 0.1) if chosen is None else chosen


def parse_folder_config(
    folder_config: Mapping[str, Any], config_path: epath.PathLike
) -> tuple[GCViTConfig, Preprocessing]:
    """The network's configuration and preprocessing in `folder_config`; a UserError names `config_path`."""
    try:
        return GCViTConfig(**folder_config["config"]), Preprocessing(**folder_config["preprocessing"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{config_path} describes no network ({error}): convert or train the model again") from None
