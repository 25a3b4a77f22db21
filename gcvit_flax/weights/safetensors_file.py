"""safetensors files, read and written by the safetensors library."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from gcvit_flax.errors import UserError, summarize_error
from gcvit_flax.weights.tensors import Tensor

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
}


@contextlib.contextmanager
def open_safetensors(path: Path) -> Iterator[dict[str, Tensor]]:
    """The tensors of a safetensors file by name.

    Raises:
      UserError: the file is damaged.
    """
    try:
        # Opening checks that every declared tensor lies inside the file.
        file = safetensors.safe_open(path, "numpy")
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is a truncated or damaged safetensors file ({summarize_error(error)}): fetch it again"
        ) from None
    with file:
        yield {name: _tensor(file, name) for name in file.keys()}  # noqa: SIM118


def _tensor(file: safetensors.safe_open, name: str) -> Tensor:
    declared = file.get_slice(name)
    # check_dtypes refuses void, which stands for all types that weights cannot have.
    dtype = _DTYPES.get(declared.get_dtype(), np.dtype(np.void))
    return Tensor(tuple(declared.get_shape()), dtype, lambda: file.get_tensor(name))


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes contiguous `tensors` with `metadata` and "format": "pt", which PyTorch's loaders expect."""
    path.touch()
    mode = path.stat().st_mode
    safetensors.numpy.save_file(dict(tensors), path, metadata={"format": "pt", **metadata})
    path.chmod(mode)  # The library creates files that only their owner can read.
