"""Writes PyTorch's container without PyTorch, well formed or hostile, for the tests of its reader."""

import io
import pickle
import zipfile
from typing import Any, NamedTuple

import numpy as np

STORAGES = {"float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage", "int64": "LongStorage"}


class Global(NamedTuple):
    """A class or function by name, which need not exist."""

    module: str
    name: str


class Call(NamedTuple):
    """function(*arguments) while the file is read."""

    function: Global
    arguments: tuple


class Persistent(NamedTuple):
    """A reference to a storage outside the pickle."""

    pid: tuple


class _Pickler(pickle._Pickler):
    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Global):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(tuple(obj.arguments))
            self.write(pickle.REDUCE)
        elif isinstance(obj, Persistent):
            self.save(obj.pid)
            self.write(pickle.BINPERSID)
        else:
            super().save(obj, save_persistent_id)


def tensor(values: np.ndarray, key: str, shape: tuple | None = None, strides: tuple | None = None) -> Call:
    """What torch.save writes of a tensor with these `values`, whose storage is called `key`."""
    shape = values.shape if shape is None else shape
    strides = tuple(stride // values.itemsize for stride in values.strides) if strides is None else strides
    storage = ("storage", Global("torch", STORAGES[values.dtype.name]), key, "cpu", values.size)
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, (Persistent(storage), 0, shape, strides, False, {}))


def write(path, content: Any, storages: dict[str, np.ndarray]) -> None:
    """Saves `content`, whose tensors lie in `storages`, as torch.save would."""
    stream = io.BytesIO()
    _Pickler(stream, 2).dump(content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", stream.getvalue())
        archive.writestr("archive/byteorder", "little")
        for key, values in storages.items():
            archive.writestr(f"archive/data/{key}", values.tobytes())


def write_state_dict(path, arrays: dict[str, np.ndarray], **extra: Any) -> None:
    """Saves `arrays` as a state dict, beside `extra` entries of the checkpoint."""
    keys = {name: str(index) for index, name in enumerate(arrays)}
    state = {name: tensor(values, keys[name]) for name, values in arrays.items()}
    write(path, {"state_dict": state, **extra}, {keys[name]: values for name, values in arrays.items()})
