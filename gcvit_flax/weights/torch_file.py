"""Files of torch.save: a pickle in a zip archive, read without PyTorch and without running code of the file.

The unpickler imports nothing that the file names: the constructors of tensors are replaced by functions of this module,
and every other class or function by an inert placeholder.
"""

import contextlib
import io
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from gcvit_flax.errors import UserError, summarize_error
from gcvit_flax.weights.archive import BAD_ZIP, open_zip
from gcvit_flax.weights.tensors import Shape, Tensor, check_total_size

_STORAGES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
# Placeholders make these harmless, but a file that names one of them is an attack and is refused.
_ATTACKS = {
    "os",
    "posix",
    "nt",
    "subprocess",
    "sys",
    "shutil",
    "socket",
    "ctypes",
    "importlib",
    "runpy",
    "pty",
    "pickle",
}
_ATTACKING_BUILTINS = {"eval", "exec", "execfile", "compile", "open", "__import__", "apply", "input", "breakpoint"}


class _Storage(NamedTuple):
    dtype: np.dtype
    key: str


@contextlib.contextmanager
def open_torch(path: Path, *, ema: bool) -> Iterator[dict[str, Tensor]]:
    """The tensors of the state dict in a .pth or .pth.tar file, by name.

    `ema` takes "state_dict_ema", the averaged weights, in place of "state_dict".

    Raises:
      UserError: the file is damaged, tries to run code or has no state dict.
    """
    with open_zip(path) as archive:
        reader = _Reader(path, archive)
        state = _state_dict(reader.load(), path, ema)
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        check_total_size(tensors, path.stat().st_size, path)
        yield tensors


def _state_dict(content: Any, path: Path, ema: bool) -> Mapping[str, Any]:
    if ema:
        content = content.get("state_dict_ema") if isinstance(content, dict) else None
    for name in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    names = content.keys() if isinstance(content, dict) else ()
    if not any(isinstance(name, str) and isinstance(content[name], Tensor) for name in names):
        wanted = "averaged weights (state_dict_ema)" if ema else "weights (a state dict of tensors)"
        raise UserError(f"{path} holds no {wanted}: give another file" + (" or leave --ema out" if ema else ""))
    return {name: value for name, value in content.items() if isinstance(name, str)}


class _Reader(pickle._Unpickler):  # In Python: the one in C makes tables of whatever size a file asks for.
    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self.archive = path, archive
        self.root = next(name for name in archive.namelist() if name.endswith("data.pkl")).removesuffix("data.pkl")
        if f"{self.root}byteorder" in archive.namelist() and self._member("byteorder") != b"little":
            raise UserError(f"{path} was written on a big-endian machine: save it again on a little-endian one")
        super().__init__(io.BytesIO(self._member("data.pkl")))

    def _member(self, name: str) -> bytes:
        try:
            return self.archive.read(self.root + name)
        except (*BAD_ZIP, KeyError) as error:
            raise UserError(
                f"{self.path}: {self.root}{name} cannot be read ({summarize_error(error)}): fetch it again"
            ) from None

    def load(self) -> Any:
        try:
            return super().load()
        except UserError:
            raise
        except Exception as error:  # A forged pickle can make the unpickler raise nearly anything.
            raise UserError(f"{self.path} holds a damaged pickle ({summarize_error(error)}): fetch it again") from None

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return name
        if (module, name) == ("collections", "OrderedDict"):
            return _placeholder(dict)
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        builtin = module in ("builtins", "__builtin__")
        if module.split(".")[0] in _ATTACKS or (builtin and name in _ATTACKING_BUILTINS):
            raise UserError(f"{self.path} tries to call {module}.{name}: a weight file never does; do not use it")
        return _placeholder(object)

    def persistent_load(self, pid: Any) -> _Storage:
        _, kind, key, *_ = pid
        return _Storage(_STORAGES[kind], str(key))

    def _rebuild_tensor(self, storage: _Storage, offset: int, shape: Shape, strides: Shape, *_: Any) -> Tensor:
        numbers = (offset, *shape, *strides)
        if not isinstance(storage, _Storage):
            raise pickle.UnpicklingError(f"a tensor in a {type(storage).__name__} instead of a storage")
        if not all(isinstance(number, int) and number >= 0 for number in numbers) or len(shape) != len(strides):
            raise pickle.UnpicklingError(f"a tensor with offset {offset}, shape {shape} and strides {strides}")
        shape, strides = tuple(shape), tuple(strides)

        def read() -> np.ndarray:
            return self._read(storage, offset, shape, strides)

        return Tensor(shape, storage.dtype, read)

    def _read(self, storage: _Storage, offset: int, shape: Shape, strides: Shape) -> np.ndarray:
        values = self._member(f"data/{storage.key}")
        itemsize = storage.dtype.itemsize
        last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
        if 0 not in shape and (last + 1) * itemsize > len(values):
            raise UserError(f"{self.path}: storage {storage.key} is too short for shape {shape}: fetch the file again")
        whole = np.frombuffer(values, storage.dtype, len(values) // itemsize)
        return np.lib.stride_tricks.as_strided(whole[offset:], shape, [stride * itemsize for stride in strides])


def _placeholder(base: type) -> type:
    """A new subclass of `base` that ignores a pickle's state; new each time, so one file cannot affect another."""

    def ignore(*args: Any, **kwargs: Any) -> None:
        return None

    if base is dict:
        return type("Mapping", (dict,), {"__setstate__": ignore})
    ignored = ("__init__", "__setstate__", "__setitem__", "append", "extend", "add", "update")
    return type("Placeholder", (), dict.fromkeys(ignored, ignore))
