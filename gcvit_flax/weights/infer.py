"""The configuration of a network from the names and shapes of its parameters."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from gcvit_flax.config import NUM_LEVELS, GCViTConfig, Size
from gcvit_flax.errors import UserError
from gcvit_flax.weights.tensors import Shape

_DEFAULT_LAYER_SCALE = 1e-5  # The initial value in all published models; trained weights do not show it.


def infer_config(shapes: Mapping[str, Shape], *, image_size: Size | None, stored_size: Size | None) -> GCViTConfig:
    """The configuration of a network with parameters of these `shapes` (our name -> our shape).

    The reference and the dropout rates are the defaults. The image size, (height, width) in pixels, is `stored_size`,
    the one stated in the file, if that fits; otherwise it follows from the windows and the query stages, and
    `image_size` decides if two are possible.

    Raises:
      UserError: the parameters are not those of a GCViT, or leave the image size open.
    """
    depths = [1 + _largest(shapes, rf"levels_{level}/blocks_(\d+)/") for level in range(NUM_LEVELS)]
    if min(depths) < 1 or any(name.startswith(f"levels_{NUM_LEVELS}/") for name in shapes):
        raise UserError(f"the weights have blocks at levels with depths {depths}: a GCViT has blocks at 4 levels")
    dim, last_dim = (
        _vote(shapes, rf"levels_{level}/blocks_\d+/(norm\d/scale|attn/proj/kernel)", lambda shape: shape[0])
        for level in (0, NUM_LEVELS - 1)
    )
    tables = [rf"levels_{level}/blocks_\d+/attn/relative_position_bias_table" for level in range(NUM_LEVELS)]
    heads = [_vote(shapes, table, lambda shape: shape[-1]) for table in tables]
    windows = [_window_side(_vote(shapes, table, lambda shape: shape[0])) for table in tables]
    stem = shapes.get("patch_embed/proj/kernel", ())
    fields: dict[str, Any] = {
        "window_size": tuple((side, side) for side in windows),
        "embed_dim": dim,
        "depths": tuple(depths),
        "num_heads": tuple(heads),
        "mlp_ratio": _mlp_ratio(shapes, dim, last_dim),
        "qkv_bias": any(name.endswith("/qkv/bias") for name in shapes),
        "layer_scale": _DEFAULT_LAYER_SCALE if any(name.endswith("/gamma1") for name in shapes) else None,
        "num_classes": sum(shapes.get("head/kernel", ())[-1:]),
        "in_channels": stem[2] if len(stem) == 4 else 3,
    }
    modules = tuple(
        1 + _largest(shapes, rf"levels_{level}/q_global_gen/to_q_global_(\d+)/") for level in range(NUM_LEVELS)
    )
    return _with_image_size(fields, modules, image_size, stored_size)


def _with_image_size(
    fields: Mapping[str, Any], modules: tuple[int, ...], image_size: Size | None, stored_size: Size | None
) -> GCViTConfig:
    """The configuration of `fields` at the image size for which the query generators have `modules`."""
    windows = [height for height, _ in fields["window_size"]]
    # A single module pools once or not at all.
    stages = {modules[0]} if modules[0] > 1 else {0, 1}
    squares = [4 * windows[0] * 2**stage for stage in sorted(stages)]
    sizes = ([stored_size] if stored_size else []) + [(side, side) for side in squares]
    fitting: dict[Size | None, GCViTConfig] = {}
    for size in sizes:
        try:
            config = GCViTConfig(image_size=size, **fields)
        except UserError:
            continue
        if tuple(max(1, stage) for stage in config.query_stages) == modules:
            fitting[size] = config
    if stored_size in fitting:
        return fitting[stored_size]
    if not fitting:
        # This raises the error of a field that is out of range.
        GCViTConfig(image_size=(32 * windows[0],) * 2, **{**fields, "window_size": ()})
        raise UserError(f"windows {windows} with {modules} query stages fit no image size: not the weights of a GCViT")
    if len(fitting) > 1 and image_size not in fitting:
        choices = " or ".join(f"--image-size {side}" for side in squares)
        raise UserError(f"the weights leave the image size open: give {choices}")
    return fitting.get(image_size) or next(iter(fitting.values()))


def _largest(names: Iterable[str], pattern: str) -> int:
    """The largest number that `pattern` captures at the start of a name; -1 if it matches none."""
    return max((int(hit.group(1)) for name in names if (hit := re.match(pattern, name))), default=-1)


def _vote(shapes: Mapping[str, Shape], pattern: str, value: Callable[[Shape], int]) -> int:
    """The most frequent `value` of the shapes whose names match `pattern`: a single wrong shape is reported later."""
    votes = Counter(value(shape) for name, shape in shapes.items() if re.fullmatch(pattern, name) and len(shape) > 0)
    if not votes:
        raise UserError(
            f"no parameter is called {pattern.replace(chr(92) + 'd+', '*')}: expected one; give another file"
        )
    return votes.most_common(1)[0][0]


def _window_side(rows: int) -> int:
    side = math.isqrt(rows)
    if side * side != rows or side % 2 == 0:
        raise UserError(
            f"a bias table of {rows} rows is not that of a square window, (2 w - 1) squared: not the weights of a GCViT"
        )
    return (side + 1) // 2


def _mlp_ratio(shapes: Mapping[str, Shape], dim: int, last_dim: int) -> float:
    """hidden / width at the last, widest level, where it is the most precise; it must be exact at the first too."""
    first, last = (
        _vote(shapes, rf"levels_{level}/blocks_\d+/mlp/fc1/kernel", lambda shape: shape[-1])
        for level in (0, NUM_LEVELS - 1)
    )
    ratio = last / max(last_dim, 1)  # A forged shape may be 0.
    # Rounding may put width * ratio just below the integer that int() must return.
    exact = int(last_dim * ratio) == last and int(dim * ratio) == first
    return ratio if exact else float(np.nextafter(ratio, np.inf))
