"""Tensors in a file, and the order of axes in each family of files.

| kind | ours | PyTorch | Keras |
|---|---|---|---|
| plain | (n,) or a bias table | the same | the same |
| dense | (in, out) | (out, in) | (in, out) |
| se | (in, out) | (out, in); timm (out, in, 1, 1) | (in, out) |
| conv | (h, w, in, out) | (out, in, h, w) | (h, w, in, out) |
| depthwise | (h, w, 1, C) | (C, 1, h, w) | (h, w, C, 1) |
| pointwise | (in, out) | (out, in, 1, 1) | (1, 1, in, out) |
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import ml_dtypes
import numpy as np

from gcvit_flax.errors import UserError

Shape = tuple[int, ...]

MOST_UNPACKED = 4  # Times a file's size that it may unpack to: enough for the compression of weights.
_MATRICES = ("dense", "se", "pointwise")
_FLOATS = tuple(np.dtype(name) for name in (np.float32, np.float16, ml_dtypes.bfloat16))


class Tensor(NamedTuple):
    """A tensor in a file: its declared shape and dtype, and `read`, which fetches its values."""

    shape: Shape
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """The size of the values in bytes, by the declared shape; sides of 0 count as 1, however long others are."""
        size = self.dtype.itemsize
        for side in self.shape:
            size *= max(side, 1)
        return size


def check_dtypes(tensors: Mapping[str, Tensor]) -> None:
    """Raises UserError if a tensor is neither float32 nor half precision."""
    wrong = sorted(f"{name} is {tensor.dtype}" for name, tensor in tensors.items() if tensor.dtype not in _FLOATS)
    if wrong:
        raise UserError(
            f"{len(wrong)} weights have a wrong dtype ({wrong[0]}): expected float32, float16 or bfloat16; "
            "save the weights again as float32"
        )


def check_total_size(tensors: Mapping[str, Tensor], file_size: int, path: object) -> None:
    """Raises UserError if the tensors declare far more bytes than the file has, before anything is allocated."""
    declared = sum(tensor.nbytes for tensor in tensors.values())
    if declared > MOST_UNPACKED * file_size:
        largest = max(tensors, key=lambda name: tensors[name].nbytes)
        raise UserError(
            f"{path} declares {declared:,} bytes of tensors but is only {file_size:,} bytes long (the largest is "
            f"{largest}, {tensors[largest].shape}): the file is damaged or forged, fetch it again"
        )


def to_ours(array: np.ndarray, kind: str, torch: bool) -> np.ndarray:
    """A view of `array`, from a PyTorch or Keras file, with our axes; an array of the wrong rank is left unchanged."""
    if kind == "plain":
        return array
    if torch and array.ndim == 2:
        array = array.transpose(1, 0)
    elif torch and array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)
    elif kind == "depthwise" and array.ndim == 4:
        array = array.transpose(0, 1, 3, 2)
    if kind in _MATRICES and array.ndim == 4 and array.shape[:2] == (1, 1):
        array = array[0, 0]
    return array


def from_ours(array: np.ndarray, kind: str, family: str) -> np.ndarray:
    """The inverse of `to_ours`: a view of our `array` with the axes of `family` ("official", "timm" or a Keras one)."""
    if kind == "plain":
        return array
    if kind == "pointwise" or (kind == "se" and family == "timm"):
        array = array[None, None]
    if family in ("official", "timm"):
        return array.transpose(1, 0) if array.ndim == 2 else array.transpose(3, 2, 0, 1)
    return array.transpose(0, 1, 3, 2) if kind == "depthwise" else array


def shape_as_ours(shape: Shape, kind: str, torch: bool) -> Shape:
    """The shape that `to_ours` gives an array of `shape`."""
    # A file can declare more axes than an array can have; no parameter has more than four.
    return to_ours(np.broadcast_to(np.float32(0), shape), kind, torch).shape if len(shape) <= 4 else shape
