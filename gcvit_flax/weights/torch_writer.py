"""Writes files that torch.load reads, with weights_only=True too, a pickle in a zip archive, without PyTorch."""

import math
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

_ROOT = "archive"  # The folder of all members, which may have any name.
_STORAGES = {np.dtype(np.float32): "FloatStorage", np.dtype(np.int64): "LongStorage"}


def write_torch(path: Path, tensors: Mapping[str, np.ndarray], license: str | None) -> None:
    """Writes contiguous float32 and int64 `tensors` as a state dict, and their `license` as a text beside it."""
    with zipfile.ZipFile(path, "w") as archive:  # Not compressed: PyTorch reads no other.
        archive.writestr(f"{_ROOT}/data.pkl", _state_dict(tensors))
        archive.writestr(f"{_ROOT}/byteorder", "little")
        for key, values in enumerate(tensors.values()):
            little_endian = values.astype(values.dtype.newbyteorder("<"), copy=False)
            archive.writestr(f"{_ROOT}/data/{key}", little_endian.tobytes())
        if license:
            archive.writestr(f"{_ROOT}/extra/license", license)
        archive.writestr(f"{_ROOT}/version", "3\n")


def _state_dict(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The pickle of a dict of tensors, whose values are in the members data/0, data/1 ... of the archive."""
    items = b"".join(_text(name) + _tensor(values, key) for key, (name, values) in enumerate(tensors.items()))
    return pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS + pickle.STOP


def _tensor(values: np.ndarray, key: int) -> bytes:
    """The call that makes a tensor: storage, offset, shape, strides, no gradient, no hooks."""
    kind = _global("torch", _STORAGES[values.dtype])
    storage = _tuple(_text("storage"), kind, _text(str(key)), _text("cpu"), _integer(values.size)) + pickle.BINPERSID
    strides = [math.prod(values.shape[axis + 1 :]) for axis in range(values.ndim)]
    sides = [_tuple(*map(_integer, numbers)) for numbers in (values.shape, strides)]
    no_hooks = _call(_global("collections", "OrderedDict"))
    rebuild = _global("torch._utils", "_rebuild_tensor_v2")
    return _call(rebuild, storage, _integer(0), *sides, pickle.NEWFALSE, no_hooks)


def _call(function: bytes, *arguments: bytes) -> bytes:
    return function + _tuple(*arguments) + pickle.REDUCE


def _tuple(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    encoded = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def _integer(number: int) -> bytes:
    return pickle.BININT + struct.pack("<i", number)
