"""What a network is: GCViTConfig and the preprocessing that its inputs need."""

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from typing import Literal

from gcvit_flax.errors import UserError
from gcvit_flax.fields import MOST, Size, as_pair, check_choice, check_integers, is_finite, plain
from gcvit_flax.references import REFERENCES

# Window side = image side / ratio, level by level, in every published variant.
WINDOW_RATIOS = (32, 32, 16, 32)
NUM_LEVELS = len(WINDOW_RATIOS)
LEVEL_STRIDES = tuple(4 * 2**level for level in range(NUM_LEVELS))
MIN_IMAGE_SIDE = 32

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


# The least of each field that counts something.
_LEAST = {"embed_dim": 4, "depths": 1, "num_heads": 1, "window_size": 1, "num_classes": 0, "in_channels": 1}


@dataclasses.dataclass(frozen=True)
class GCViTConfig:
    """Everything that decides the network's shape and forward pass (paper, sections 3 and A, table 1).

    Sides are (height, width) in pixels for `image_size` and in tokens for `window_size`, one pair per level; an int
    stands for a square. Without `window_size` the windows follow the official ratios (32, 32, 16, 32) of the image
    size.

    Raises:
      UserError: (a ValueError) a field that is out of range or does not fit the others.
    """

    image_size: Size = (224, 224)
    window_size: tuple[Size, ...] = ()
    embed_dim: int = 64
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (2, 4, 8, 16)
    mlp_ratio: float = 3.0
    qkv_bias: bool = True
    qk_scale: float | None = None
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    layer_scale: float | None = None
    num_classes: int = 1000
    relative_position_bias: Literal["per_head", "flattened"] = "per_head"
    query_pool_padding: Literal["-inf", "zero"] = "-inf"
    pad_to_windows: bool = False
    in_channels: int = 3

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, plain(getattr(self, field.name)))
        image_size = as_pair("image_size", self.image_size)
        check_integers("image_size", image_size, 1)
        object.__setattr__(self, "image_size", image_size)
        for name in ("window_size", "depths", "num_heads"):
            entries = () if (entries := getattr(self, name)) is None else entries
            if not isinstance(entries, Iterable):
                raise UserError(f"{name} needs one entry for each of the {NUM_LEVELS} levels, got {entries!r}")
            parse = functools.partial(as_pair, name) if name == "window_size" else plain
            object.__setattr__(self, name, tuple(map(parse, entries)))
        if not self.window_size:
            object.__setattr__(self, "window_size", tuple(_official_windows(image_size)))
        self._check()

    def _check(self) -> None:
        for name in ("window_size", "depths", "num_heads"):
            value = getattr(self, name)
            if len(value) != NUM_LEVELS:
                raise UserError(f"{name} needs one entry for each of the {NUM_LEVELS} levels, got {value}")
        for name, least in _LEAST.items():
            check_integers(name, getattr(self, name), least)
        for level, (dim, heads) in enumerate(zip(self.dims, self.num_heads, strict=True)):
            if dim % heads:
                raise UserError(
                    f"level {level}: the width must be a multiple of the number of heads, got width {dim} "
                    f"(embed_dim * 2**level) and num_heads {heads}"
                )
        for name in ("dropout_rate", "attention_dropout_rate", "drop_path_rate"):
            if not is_finite(getattr(self, name)) or not 0.0 <= getattr(self, name) < 1.0:
                raise UserError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")
        if not is_finite(self.mlp_ratio) or not 0 < self.mlp_ratio <= MOST:
            raise UserError(f"mlp_ratio must be above 0 and at most {MOST}, got {self.mlp_ratio!r}")
        for name in ("qk_scale", "layer_scale"):
            if getattr(self, name) is not None and not is_finite(getattr(self, name)):
                raise UserError(f"{name} must be a finite number or None, got {getattr(self, name)!r}")
        for name in ("qkv_bias", "pad_to_windows"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"{name} must be True or False, got {getattr(self, name)!r}")
        check_choice("relative_position_bias", self.relative_position_bias, ("per_head", "flattened"))
        check_choice("query_pool_padding", self.query_pool_padding, ("-inf", "zero"))
        _ = self.query_stages

    @property
    def dims(self) -> tuple[int, ...]:
        """Channels at each level; the last level keeps them, so its features are `dims[3]` wide."""
        return tuple(self.embed_dim * 2**level for level in range(NUM_LEVELS))

    @property
    def grids(self) -> tuple[Size, ...]:
        """Height and width of each level's map at `image_size`, in tokens."""
        return level_grids(self.image_size)

    @property
    def query_stages(self) -> tuple[int, ...]:
        """Poolings of each level's query generator: log2(grid / window), the same on both axes.

        They decide which weights exist, hence come from the configuration and never from the input.
        """
        return tuple(
            _query_stages(level, self.image_size, grid, window)
            for level, (grid, window) in enumerate(zip(self.grids, self.window_size, strict=True))
        )

    @property
    def reference(self) -> str | None:
        """The public implementation whose forward pass this is; None for a mixture of their settings."""
        settings = (self.relative_position_bias, self.query_pool_padding)
        return next((name for name, value in REFERENCES.items() if value == settings), None)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the network's input: bicubic resize with antialiasing, crop, then (x - mean) / std.

    `crop_mode` "center" scales the image until it covers image_size / crop_fraction and cuts the middle; "squash"
    resizes to that size without keeping the aspect ratio, then cuts the middle. `image_size` is (height, width) in
    pixels; mean and std, one for each channel, are on the scale 0..1, or in the units of data that are real numbers.
    """

    image_size: Size = (224, 224)
    crop_fraction: float = 1.0
    crop_mode: str = "center"
    kernel: str = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", as_pair("image_size", self.image_size))
        object.__setattr__(self, "crop_fraction", plain(self.crop_fraction))
        object.__setattr__(self, "mean", tuple(map(plain, self.mean)))
        object.__setattr__(self, "std", tuple(map(plain, self.std)))
        check_choice("crop_mode", self.crop_mode, ("center", "squash"))
        check_choice("kernel", self.kernel, ("bicubic", "bilinear"))
        check_integers("image_size", self.image_size, 1)
        if not is_finite(self.crop_fraction) or not 0.0 < self.crop_fraction <= 1.0:
            raise UserError(f"crop_fraction must be above 0 and at most 1, got {self.crop_fraction}")
        if len(self.mean) != len(self.std) or not self.mean:
            raise UserError(f"mean and std need one number for each channel, got {self.mean} and {self.std}")
        if not all(map(is_finite, self.mean + self.std)) or not all(self.std):
            raise UserError(f"mean and std must be finite numbers, and std not 0, got {self.mean} and {self.std}")

    @property
    def channels(self) -> int:
        """The number of channels of the network's input."""
        return len(self.mean)


def level_grids(image_size: Size) -> tuple[Size, ...]:
    """Height and width in tokens of each level's map of an image: strides 4 to 32, rounded up at each halving."""
    return tuple((-(-image_size[0] // stride), -(-image_size[1] // stride)) for stride in LEVEL_STRIDES)


def _official_windows(image_size: Size) -> list[Size]:
    step = max(WINDOW_RATIOS)
    if any(side % step for side in image_size):
        below, above = (
            [max(step, round_to(side / step) * step) for side in image_size] for round_to in (math.floor, math.ceil)
        )
        raise UserError(
            f"image_size {_show(image_size)} does not divide into the official windows, which need multiples of "
            f"{step}: use {_show(below)} or {_show(above)}, give window_size, or set pad_to_windows"
        )
    return [(image_size[0] // ratio, image_size[1] // ratio) for ratio in WINDOW_RATIOS]


def _show(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"


def _query_stages(level: int, image_size: Size, grid: Size, window: Size) -> int:
    (rows, row_rest), (columns, column_rest) = (divmod(side, w) for side, w in zip(grid, window, strict=True))
    if row_rest or column_rest or rows != columns or rows & (rows - 1):
        raise UserError(
            f"level {level}: the {_show(grid)} map of a {_show(image_size)} image over the {_show(window)} window must "
            "be the same power of two on both axes; leave window_size out to follow the image size"
        )
    return rows.bit_length() - 1
