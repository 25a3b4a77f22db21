"""What is trained."""

import dataclasses
from typing import Literal

from gcvit_flax.training.options.bounds import POSITIVE, option

Pair = tuple[int, int]
Levels = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class NetworkOptions:
    """The network, and the weights that it starts from."""

    # Published variant, modified by the options below. Default: gcvit_xxtiny, or that of --init-from.
    variant: str | None = None
    # Image side in pixels, or height and width. Default: the variant's, or that of --init-from.
    image_size: int | Pair | None = None
    # Default: as many as the data has.
    num_classes: int | None = None
    # Image channels. If not RGB's 3, they are measured, and colors not augmented. Default: 3, or that of --init-from.
    in_channels: int | None = option(None, POSITIVE)
    # Mean of each channel, to normalize images, on the scale 0..1 or in the units of real numbers; with --std. Default:
    # ImageNet's, measured for other channels than RGB, or those of --init-from.
    mean: tuple[float, ...] | None = None
    # Standard deviation of each channel, with --mean.
    std: tuple[float, ...] | None = option(None, POSITIVE)
    # Which public implementation's forward pass: official, gcvit_tf or keras_io. Default: official, or that of
    # --init-from.
    reference: Literal["official", "gcvit_tf", "keras_io"] | None = None
    # Channels of the first level.
    embed_dim: int | None = None
    # Blocks at each level.
    depths: Levels | None = None
    # Attention heads at each level.
    num_heads: Levels | None = None
    # Window side at each level, in tokens. Default: image side over 32, 32, 16 and 32.
    window_size: Levels | None = None
    # Dropout after the stem, the projections and in the MLPs.
    dropout_rate: float | None = None
    # Stochastic depth of the last block, growing linearly from 0.
    drop_path_rate: float | None = None
    # Model folder whose weights the run starts from; for other classes the head is new.
    init_from: str | None = None
    # Train the head alone and leave all else as it is, without dropout and stochastic depth.
    head_only: bool = False
