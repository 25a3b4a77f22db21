"""Draws what a network attends to: `python -m gcvit_flax.attention_maps MODEL_DIR IMAGE OUT.png`.

Without options, the last block of level 2 that attends by the global query, over the image.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gcvit_flax.cli import program_name, run_cli
from gcvit_flax.config import NUM_LEVELS, GCViTConfig
from gcvit_flax.data.crops import evaluation_crop
from gcvit_flax.data.decode import decode
from gcvit_flax.data.preprocess import normalize
from gcvit_flax.errors import UserError
from gcvit_flax.visualize.attention_weights import (
    attention_logits,
    is_global,
    pick,
    received_attention,
    relative_position_bias_planes,
)

_MOST_PANELS = 64


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
    from gcvit_flax.devices import enable_compilation_cache
    from gcvit_flax.visualize.attention_figures import draw_maps, draw_planes, visible_box
    from gcvit_flax.visualize.png import check_writable
    from gcvit_flax.weights.model_folder import load_model

    out = options.out
    check_writable(out)
    enable_compilation_cache()
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
        logits = attention_logits(model, variables, pixels, tuple(sorted(places)))
        values = {place: received_attention(logits[place], model, pixels.shape, *place)[0] for place in places}
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
    for one in pick("the network", "level", level, NUM_LEVELS):
        depth, count = config.depths[one], config.num_heads[one]
        last_global = (depth // 2) * 2 - 1  # Absent where the depth is 1: then the only, local block.
        for index in pick(f"level {one}", "block", max(last_global, 0) if block is None else block, depth):
            place = f"level {one}, block {index} ({'global' if is_global(index) else 'local'})"
            if head == "mean":
                panels[f"{place}, mean of the heads"] = (one, index), list(range(count))
            else:
                for number in pick(f"level {one}", "head", head, count):
                    panels[f"{place}, head {number}"] = (one, index), [number]
    if len(panels) > _MOST_PANELS:
        raise UserError(
            f"{len(panels)} panels are too many, one picture shows {_MOST_PANELS}: choose a --level, a --block or "
            "--head mean"
        )
    return panels


if __name__ == "__main__":
    run_cli(main)
