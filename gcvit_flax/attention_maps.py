"""Draws what a network attends to: `python -m gcvit_flax.attention_maps MODEL_DIR IMAGE OUT.png`.

Without options, the last block of level 2 that attends by the global query, over the image.
"""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from einops import rearrange

from gcvit_flax.config import NUM_LEVELS, GCViTConfig
from gcvit_flax.crops import evaluation_crop
from gcvit_flax.errors import UserError, run_cli
from gcvit_flax.images import decode, normalize
from gcvit_flax.model.attention import relative_position_bias, relative_position_index
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.model.windows import merge, padded_grid
from gcvit_flax.scripts import program_name

_MOST_PANELS = 64


def attention_weights(model: GCViT, variables: dict, images: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """The softmax weights of all heads of every block: {(level, block): float32 (B, n, h, T queries, T keys)}.

    `images` (B, H, W, 3) are normalised, as `preprocess` gives them; padded keys have weight 0. One program is
    compiled for each shape.

    Raises:
      UserError: (a ValueError) images that do not fit the model.
    """
    depths = enumerate(model.config.depths)
    places = tuple((level, block) for level, depth in depths for block in range(depth))
    logits = _logits(model, variables, images, places)
    return {place: _softmax(np.asarray(values), -1) for place, values in logits.items()}


def attention_map(model: GCViT, variables: dict, images: np.ndarray, level: int, block: int) -> np.ndarray:
    """The attention that each place of a level's map receives in one block, float32 (B, h, H, W); 1 is uniform.

    In a local block it is what a token's own window gives it: the mean weight over the window's queries, times the
    number of its keys. In a global block (odd numbers) all windows of an image have the same queries, so that logits
    are on one scale throughout the image, and the softmax is taken over all of its keys: the windows' weights times
    each window's share of the exponentials. The network itself has each window sum to 1, which hides the windows that
    answer to the query best.

    Raises:
      UserError: (a ValueError) a level or block that the model lacks, or images that do not fit it.
    """
    _check(model.config, level, block)
    place = (level, block)
    return _received(_logits(model, variables, images, (place,))[place], model, images.shape, *place)


def relative_position_bias_planes(model: GCViT, variables: dict, level: int, block: int) -> np.ndarray:
    """The learned bias of one block over offsets, float32 (h, 2 wh-1, 2 ww-1), at [head, dy + wh-1, dx + ww-1].

    dy and dx are the query's row and column less the key's. Where `relative_position_bias` is "flattened", all heads
    have the same plane, made of the first rows of the table; the network never reads the others.

    Raises:
      UserError: (a ValueError) a level or block that the model lacks.
    """
    _check(model.config, level, block)
    config, window = model.config, model.config.window_size[level]
    params = variables["params"][f"levels_{level}"][f"blocks_{block}"]["attn"]
    if config.relative_position_bias == "gathered":  # By `fold_for_inference`.
        bias = np.asarray(params["relative_position_bias"])
    else:
        table = np.asarray(params["relative_position_bias_table"])
        bias = relative_position_bias(table, window, config.relative_position_bias)
    rows, columns = 2 * window[0] - 1, 2 * window[1] - 1
    planes = np.zeros((config.num_heads[level], rows * columns), np.float32)
    planes[:, relative_position_index(window)] = bias  # All pairs of an offset have the same.
    return planes.reshape(-1, rows, columns)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _logits(
    model: GCViT, variables: dict, images: jax.Array, places: tuple[tuple[int, int], ...]
) -> dict[tuple[int, int], jax.Array]:
    """{(level, block): attention logits (B, n, h, T, T), -inf at padded keys} of some `places`."""
    _, state = model.apply(variables, images, mutable=["attention"])
    return {
        (level, block): state["attention"][f"levels_{level}"][f"blocks_{block}"]["attn"]["logits"][0]
        for level, block in places
    }


def _received(logits: jax.Array, model: GCViT, shape: tuple[int, ...], level: int, block: int) -> np.ndarray:
    """The map (B, h, H, W) of `attention_map`, from a block's logits (B, n, h, T, T) for images of `shape`."""
    logits = np.asarray(logits)
    real = logits[:1, :, :1, :1] != -np.inf  # Keys that are not padding, (1, n, 1, 1, T).
    if _is_global(block):
        received = _softmax(logits, (1, -1)).mean(-2) * real.sum()  # (B, n, h, T)
    else:  # Queries that are not padding are as many as keys, so that their mean times that number is their sum.
        received = (_softmax(logits, -1) * np.swapaxes(real, -1, -2)).sum(-2)
    window, grid = model.config.window_size[level], tuple(-(-side // 2 ** (level + 2)) for side in shape[1:3])
    maps = merge(rearrange(received, "B n h T -> B n T h"), window, padded_grid(grid, window))
    return rearrange(maps[:, : grid[0], : grid[1]], "B H W h -> B h H W")


def _softmax(logits: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis, keepdims=True), dtype=np.float32)
    return weights / weights.sum(axis, keepdims=True)


def _is_global(block: int) -> bool:
    return block % 2 == 1


def _check(config: GCViTConfig, level: int, block: int) -> None:
    _pick("the network", "level", level, NUM_LEVELS)
    _pick(f"level {level}", "block", block, config.depths[level])


def _pick(owner: str, part: str, chosen: int | str, count: int) -> list[int]:
    """The parts, of `count`, that `chosen` names by number or "all"."""
    if chosen == "all":
        return list(range(count))
    if str(chosen) not in map(str, range(count)):
        raise UserError(f"{owner} has no {part} {chosen}: its {part}s are 0 to {count - 1}")
    return [int(chosen)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses, draws, and prints what was drawn."""
    parser = argparse.ArgumentParser(prog=program_name("python -m gcvit_flax.attention_maps"), description=__doc__)
    parser.add_argument("model", metavar="MODEL_DIR", help="a folder that the trainer or the converter wrote")
    parser.add_argument("image", metavar="IMAGE", nargs="?", help="an image file; --bias needs none")
    parser.add_argument("out", metavar="OUT.png", type=Path, help="the picture; one map is as large as the image")
    parser.add_argument("--level", default="2", help="0 to 3, or all (default: 2)")
    parser.add_argument(
        "--block", help="odd ones attend by the global query, even ones locally; or all (default: the last odd one)"
    )
    parser.add_argument("--head", help="a number, mean or all (default: mean; of --bias, all)")
    parser.add_argument("--bias", action="store_true", help="draw the learned relative position bias instead")
    options = parser.parse_intermixed_args(arguments)
    if options.image is None and not options.bias:
        parser.error("IMAGE is missing: only --bias needs none")
    maps = _draw(options)
    (title, values), *others = maps.items()
    said = f"{len(maps)} panels" if others else f"{title}, from {values.min():.2g} to {values.max():.2g}"
    print(f"{options.out}: {said}{'' if options.bias else '; 1 is uniform attention'}")


def _draw(options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Draws what `main`'s options choose, and returns it by title."""
    from gcvit_flax.attention_picture import draw_maps, draw_planes, visible_box
    from gcvit_flax.devices import keep_compiled_programs
    from gcvit_flax.pictures import check_writable
    from gcvit_flax.weights.store import load_model

    out = options.out
    check_writable(out)
    keep_compiled_programs()
    model, variables = load_model(options.model)
    alike = options.bias and model.config.relative_position_bias == "flattened"  # All heads have one plane.
    head = options.head or ("all" if options.bias and not alike else "mean")
    panels = _panels(model.config, options.level, options.block, head)
    places = {place for place, _ in panels.values()}
    if options.bias:
        values = {place: relative_position_bias_planes(model, variables, *place) for place in places}
    else:
        image = decode(options.image)
        preprocessing = model.preprocessing
        box = visible_box(image, preprocessing)
        pixels = normalize(evaluation_crop(image, preprocessing)[None], preprocessing)
        logits = _logits(model, variables, pixels, tuple(sorted(places)))
        values = {place: _received(logits[place], model, pixels.shape, *place)[0] for place in places}
    if not all(np.isfinite(heads).all() for heads in values.values()):
        raise UserError(f"{options.model} gives values that are not finite: its parameters are damaged, train it again")
    maps = {title: values[place][heads].mean(0) for title, (place, heads) in panels.items()}
    if options.bias:
        draw_planes(out, maps)
    else:
        draw_maps(out, image, box, maps)
    return maps


def _panels(config: GCViTConfig, level: str, block: str | None, head: str) -> dict[str, tuple[tuple, list[int]]]:
    """What to draw, {title: ((level, block), the heads whose mean it is)}."""
    panels = {}
    for one in _pick("the network", "level", level, NUM_LEVELS):
        depth, count = config.depths[one], config.num_heads[one]
        last_global = (depth // 2) * 2 - 1  # Absent where the depth is 1: then the only, local block.
        for index in _pick(f"level {one}", "block", max(last_global, 0) if block is None else block, depth):
            place = f"level {one}, block {index} ({'global' if _is_global(index) else 'local'})"
            if head == "mean":
                panels[f"{place}, mean of the heads"] = (one, index), list(range(count))
            else:
                for number in _pick(f"level {one}", "head", head, count):
                    panels[f"{place}, head {number}"] = (one, index), [number]
    if len(panels) > _MOST_PANELS:
        raise UserError(
            f"{len(panels)} panels are too many, one picture shows {_MOST_PANELS}: choose a --level, a --block or "
            "--head mean"
        )
    return panels


if __name__ == "__main__":
    run_cli(main)
