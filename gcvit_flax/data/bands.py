"""Images of any number of channels: gray scans, satellite images, stacks; RGB ones are Pillow's (`decode`).

Their pixels are float32 on the scale of 8 bits, so that 16 bits keep their precision: integers without a sign have
their full range as 0..255, and all other data 255 times its own units. Networks see them after (x / 255 - mean) / std.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from gcvit_flax.data.decode import (
    ImageSource,
    UnreadableImage,
    check_samples,
    decode,
    gray_of_16_bits,
    is_npy,
    open_image,
    read_npy,
    reported_as,
    source_name,
    to_rgb,
    upright,
)
from gcvit_flax.data.tiff import is_tiff, read_tiff

RGB = 3
Size = tuple[int, int]  # Width and height, as in Pillow.


class Bands:
    """An image of single-channel Pillow images, with what crops use of Pillow's own: float32 (H, W, channels)."""

    def __init__(self, planes: Sequence[Image.Image]) -> None:
        self._planes = tuple(planes)
        self.width, self.height = self.size = planes[0].size

    def resize(
        self, size: Size, resample: Image.Resampling, box: tuple[float, float, float, float] | None = None
    ) -> "Bands":
        """Each channel resized as Pillow resizes it; unlike in 8 bits, values may overshoot at edges."""
        return Bands([plane.resize(size, resample, box) for plane in self._planes])

    def reduce(self, factor: tuple[int, int], box: tuple[int, int, int, int]) -> "Bands":
        """The part in `box`, each channel averaged over blocks of `factor` (x, y) pixels."""
        return Bands([plane.reduce(factor, box) for plane in self._planes])

    def crop(self, box: tuple[int, int, int, int]) -> "Bands":
        """The part in `box`, zero outside the image."""
        return Bands([plane.crop(box) for plane in self._planes])

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.stack([np.asarray(plane, dtype) for plane in self._planes], -1)


Picture = Image.Image | Bands


def pixel_type(channels: int) -> np.dtype:
    """The type of an image's pixels: uint8 for RGB, else float32."""
    return np.dtype(np.uint8 if channels == RGB else np.float32)


def read_picture(source: ImageSource, name: str = "", channels: int = RGB) -> Picture:
    """The image of `source` with that many channels; RGB ones as `decode` reads them.

    One channel is read of any image, converted to gray. Others are read of arrays and .npy files (H, W, channels),
    TIFF files, whose channels may be samples or pages, and images of other formats with alpha or CMYK.

    Raises:
      UnreadableImage: (a UserError) a file that is missing or damaged, of another number of channels, or whose numbers
        have no known scale.
    """
    if channels == RGB:
        return decode(source, name)
    name = source_name(source, name)
    with reported_as(name):
        return _to_bands(_read_array(source, name, channels), name, channels)


def _to_bands(array: np.ndarray, name: str, channels: int) -> Bands:
    if array.ndim not in (2, 3) or 0 in array.shape or array.dtype.kind not in "buif":
        raise UnreadableImage(f"{name}: expected numbers (H, W, {channels}), got {array.dtype} {array.shape}")
    array = array if array.ndim == 3 else array[..., None]
    if array.shape[2] != channels:
        raise UnreadableImage(
            f"{name} has {array.shape[2]} channels, expected {channels}: give images of {channels}, or another "
            "--in-channels"
        )
    array = _on_scale_of_8_bits(array)
    if not np.isfinite(array).all():
        raise UnreadableImage(f"{name} holds NaN or infinity: replace what is missing in it, or remove it")
    return Bands([Image.fromarray(np.ascontiguousarray(array[..., channel])) for channel in range(channels)])


def visible(values: np.ndarray) -> np.ndarray:
    """Values (..., channels) as RGB (..., 3) in 0..1: the first three channels or, of fewer, the first in gray.

    Each channel is scaled to its range.
    """
    shown = values[..., :RGB] if values.shape[-1] >= RGB else np.repeat(values[..., :1], RGB, -1)
    axes = tuple(range(shown.ndim - 1))
    low, high = shown.min(axes), shown.max(axes)
    return (shown - low) / np.where(high > low, high - low, 1)


def as_rgb(picture: Picture) -> Image.Image:
    """What can be shown of `picture`: itself if it is RGB, else what `visible` makes of its channels."""
    if isinstance(picture, Image.Image):
        return picture
    return Image.fromarray((visible(np.asarray(picture)) * 255).round().astype(np.uint8))


def _read_array(source: ImageSource, name: str, channels: int) -> np.ndarray:
    if isinstance(source, np.ndarray):
        return source
    if not isinstance(source, Image.Image):
        if is_npy(source):
            return read_npy(source, name)
        if channels > 1 and is_tiff(source):
            return read_tiff(source, name, channels)
    with open_image(source, name) as image:
        check_samples(image, name)
        image = upright(image)
        if image.mode.startswith("I"):
            return gray_of_16_bits(image, name)
        if channels == 1 and image.mode not in ("L", "F"):
            image = to_rgb(image, name).convert("L")
        return np.asarray(image)


def _on_scale_of_8_bits(array: np.ndarray) -> np.ndarray:
    full = np.iinfo(array.dtype).max if array.dtype.kind == "u" else 1
    return array.astype(np.float32) * np.float32(255 / full)
