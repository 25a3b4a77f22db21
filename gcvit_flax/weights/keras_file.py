"""Keras files, .keras and .weights.h5 of Keras 3 and .h5 of Keras 2, through h5py; links to other files are refused."""

import contextlib
import datetime
import json
import math
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np

from gcvit_flax.errors import UserError, summarize_error
from gcvit_flax.weights.archive import BAD_ZIP, open_zip
from gcvit_flax.weights.tensors import MOST_UNPACKED, Tensor, check_total_size

WEIGHTS_MEMBER = "model.weights.h5"
CONFIG_MEMBER = "config.json"
OPTIMIZER = re.compile(r"(^|/)optimizer/")

_KERAS_VERSION = "3.0.2"  # The oldest with this layout, which later versions read.
_ROOTS = ("patch_embed", "levels", "norm", "head")
_KERAS2_WEIGHTS = {"kernel": "weight", "depthwise_kernel": "weight", "gamma": "weight", "beta": "bias"}


@contextlib.contextmanager
def open_keras_zip(path: Path) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
    """The tensors of a .keras file by dataset path, and its config.json; the file is open inside the block.

    Raises:
      UserError: the archive is damaged or names paths outside itself.
    """
    with open_zip(path) as archive, tempfile.TemporaryDirectory() as folder:
        # h5py needs random access. Copying also verifies the archive's checksums.
        unpacked = Path(folder) / WEIGHTS_MEMBER
        try:
            with archive.open(WEIGHTS_MEMBER) as packed, unpacked.open("wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
            config = json.loads(archive.read(CONFIG_MEMBER))
        except BAD_ZIP as error:
            raise UserError(f"{path} is damaged ({summarize_error(error)}): fetch it again") from None
        with open_hdf5(unpacked, path) as (tensors, _):
            yield tensors, config if isinstance(config, dict) else {}


@contextlib.contextmanager
def open_hdf5(path: Path, shown: Path) -> Iterator[tuple[dict[str, Tensor], bool]]:
    """The tensors of an HDF5 file by name, and whether Keras 2 wrote it; `shown` is its name in errors.

    The tensors of a Keras 2 file get the official names, such as "levels.0.blocks.0.attn.qkv.weight".

    Raises:
      UserError: the file is truncated, damaged or forged, or reads from other files.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise UserError(
            f"{shown} is a truncated or damaged HDF5 file ({summarize_error(error)}): fetch it again"
        ) from None
    with file:
        try:
            tensors = {name: _tensor(name, dataset, shown) for name, dataset in _datasets(file, shown).items()}
            keras2 = "layer_names" in file.attrs or file.get("model_weights", getlink=True) is not None
        except UserError:
            raise
        except Exception as error:  # A damaged file can make h5py raise nearly anything.
            raise UserError(f"{shown} is a damaged HDF5 file ({summarize_error(error)}): fetch it again") from None
        check_total_size(tensors, path.stat().st_size, shown)
        yield (_as_official(tensors, shown) if keras2 else _without_wrapper(tensors)), keras2


def write_weights_h5(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes `tensors`, by dataset path, as save_weights of Keras 3 does."""
    with h5py.File(path, "w") as file:
        for name, values in tensors.items():
            file.create_dataset(name, data=values)


def write_keras_zip(path: Path, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> None:
    """Writes a .keras file of `tensors`, by dataset path, with `config` as its config.json."""
    metadata = {
        "keras_version": _KERAS_VERSION,
        "date_saved": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d@%H:%M:%S"),
    }
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, zipfile.ZipFile(path, "w") as archive:
        weights = Path(folder) / WEIGHTS_MEMBER
        write_weights_h5(weights, tensors)
        archive.writestr("metadata.json", json.dumps(metadata))
        archive.writestr(CONFIG_MEMBER, json.dumps(config))
        archive.write(weights, WEIGHTS_MEMBER)


def _datasets(file: h5py.File, shown: Path) -> dict[str, h5py.Dataset]:
    """Every dataset by its path; soft and external links are refused, and each object is visited once."""
    datasets: dict[str, h5py.Dataset] = {}
    visited, groups = set(), [("", file)]
    while groups:
        prefix, group = groups.pop()
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise UserError(f"{shown}: {prefix}{name} is a link, possibly to another file: refused")
            member = group[name]
            address = h5py.h5o.get_info(member.id).addr
            if address in visited:
                raise UserError(f"{shown}: {prefix}{name} is in the file twice: refused as forged")
            visited.add(address)
            if isinstance(member, h5py.Group):
                groups.append((f"{prefix}{name}/", member))
            elif isinstance(member, h5py.Dataset):
                if member.external or member.is_virtual:
                    raise UserError(f"{shown}: {prefix}{name} keeps its values in another file: refused")
                datasets[prefix + name] = member
    return datasets


def _tensor(name: str, dataset: h5py.Dataset, shown: Path) -> Tensor:
    if dataset.shape is None:
        raise UserError(f"{shown}: {name} is a dataset without values: expected an array; save the weights again")
    # HDF5 reads whole chunks, however little of one the array fills.
    chunk_bytes = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    if chunk_bytes > MOST_UNPACKED * dataset.file.id.get_filesize():
        raise UserError(f"{shown}: {name} declares chunks of {chunk_bytes:,} bytes, far more than the file: refused")
    dtype = dataset.dtype
    if dtype == np.dtype("V2"):
        kind = dataset.attrs.get("dtype")
        dtype = np.dtype(ml_dtypes.bfloat16) if isinstance(kind, str) and kind == "bfloat16" else dtype

    def read() -> np.ndarray:
        if not _is_written(dataset):
            raise UserError(f"{shown}: {name} declares {dataset.shape} but holds no such values: fetch the file again")
        try:
            return dataset[()].view(dtype)
        except Exception as error:
            raise UserError(f"{shown}: {name} cannot be read ({summarize_error(error)}): fetch it again") from None

    return Tensor(dataset.shape, dtype, read)


def _is_written(dataset: h5py.Dataset) -> bool:
    """Whether all storage of `dataset` was allocated: what was not would be read as the fill value, mostly zeros."""
    if dataset.chunks is None:
        return dataset.id.get_storage_size() >= dataset.nbytes
    chunks = math.prod(-(-side // step) for side, step in zip(dataset.shape, dataset.chunks, strict=True))
    return dataset.id.get_num_chunks() >= chunks


def _without_wrapper(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` without the prefix "layers/NAME/" shared by all names if the network is a layer of another model."""
    wrapper = re.compile(r"layers/[^/]+/(?=layers/|head/)")
    matches = [wrapper.match(name) for name in tensors if not OPTIMIZER.search(name)]
    prefixes = {match.group() if match else "" for match in matches}
    if len(prefixes) != 1:
        return tensors
    return {name.removeprefix(*prefixes): tensor for name, tensor in tensors.items()}


def _as_official(tensors: dict[str, Tensor], shown: Path) -> dict[str, Tensor]:
    """Keras 2 tensors under official names: "m/levels_0/blocks_1/norm1/beta:0" is "levels.0.blocks.1.norm1.bias"."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer_weights/"):
            renamed[name.replace("optimizer_weights", "optimizer", 1)] = tensor
            continue
        parts = re.sub(r"_(?=\d+(/|$))", "/", name.removesuffix(":0")).split("/")
        # The layer's group and the model's name may contain a root too: the weight's own path begins at the last one.
        starts = [place for place, part in enumerate(parts) if part in _ROOTS]
        parts = parts[starts[-1] :] if starts else parts
        parts[-1] = _KERAS2_WEIGHTS.get(parts[-1], parts[-1])
        official = ".".join(parts)
        if official in renamed:
            raise UserError(f"{shown} has two weights called {official}: expected one; save it again")
        renamed[official] = tensor
    return renamed
