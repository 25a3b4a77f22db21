"""Draws what a network attends to: `python -m gcvit_flax.attention_maps MODEL_DIR IMAGE OUT.png`.

Without options it draws the last block of level 2 that attends with the global query, over the image.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gcvit_flax.cli import MODEL_HELP, program_name, run_cli
from gcvit_flax.config import NUM_LEVELS, GCViTConfig
from gcvit_flax.data.bands import as_rgb, read_picture
from gcvit_flax.data.crops import evaluation_crop
from gcvit_flax.data.decode import reported_as
from gcvit_flax.data.preprocess import normalize
from gcvit_flax.errors import UserError
from gcvit_flax.visualize.attention_weights import (
    BlockId,
    attention_logits,
    is_global,
    received_attention,
    relative_position_bias_planes,
    select,
)

_MAX_PANELS = 64


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws the picture and prints a summary."""
    options = _parse(arguments)
    maps = _draw(options)
    (title, values), *others = maps.items()
    said = f"{len(maps)} panels" if others else f"{title}, from {values.min():.2g} to {values.max():.2g}"
    print(f"{options.out}: {said}{'' if options.bias else '; 1 is uniform attention'}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program_name("python -m gcvit_flax.attention_maps"), description=__doc__)
    parser.add_argument("model", metavar="MODEL_DIR", help=MODEL_HELP)
    parser.add_argument("image", metavar="IMAGE", nargs="?", help="an image file; --bias needs none")
    parser.add_argument("out", metavar="OUT.png", type=Path, help="the picture; a single map is as large as the image")
    parser.add_argument("--level", default="2", help="0 to 3, or all (default: 2)")
    parser.add_argument(
        "--block", help="odd ones attend with the global query, even ones locally; or all (default: the last odd one)"
    )
    parser.add_argument("--head", help="a number, mean or all (default: mean; with --bias, all)")
    parser.add_argument("--bias", action="store_true", help="draw the learned relative position bias instead")
    options = parser.parse_intermixed_args(arguments)
    if options.image is None and not options.bias:
        parser.error("IMAGE is missing: only --bias needs none")
    return options


def _draw(options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Draws the maps or planes that the options select, and returns them by title."""
    # Slow to import, and needed only after the command line is checked.
    from gcvit_flax.devices import enable_compilation_cache
    from gcvit_flax.visualize.attention_figures import draw_maps, draw_planes, visible_box
    from gcvit_flax.visualize.png import check_writable
    from gcvit_flax.weights.model_folder import load_model

    out = options.out
    check_writable(out)
    enable_compilation_cache()
    model, variables = load_model(options.model)
    heads_share_bias = options.bias and model.config.relative_position_bias == "flattened"
    head = options.head or ("all" if options.bias and not heads_share_bias else "mean")
    panels = _panels(model.config, options.level, options.block, head)
    blocks = {block for block, _ in panels.values()}
    if options.bias:
        values = {block: relative_position_bias_planes(model, variables, *block) for block in blocks}
    else:
        preprocessing = model.preprocessing
        with reported_as(options.image):
            image = read_picture(options.image, channels=preprocessing.channels)
            shown = as_rgb(image)
            box = visible_box(shown, preprocessing)
            pixels = normalize(evaluation_crop(image, preprocessing)[None], preprocessing)
        logits = attention_logits(model, variables, pixels, tuple(sorted(blocks)))
        values = {block: received_attention(logits[block], model, pixels.shape, *block)[0] for block in blocks}
    if not all(np.isfinite(heads).all() for heads in values.values()):
        raise UserError(f"{options.model} gives values that are not finite: its parameters are damaged, train it again")
    maps = {title: values[block][heads].mean(0) for title, (block, heads) in panels.items()}
    if options.bias:
        draw_planes(out, maps)
    else:
        with reported_as(options.image):
            draw_maps(out, shown, box, maps)
    return maps


def _panels(config: GCViTConfig, level: str, block: str | None, head: str) -> dict[str, tuple[BlockId, list[int]]]:
    """The panels to draw: {title: ((level, block), the heads to average)}.

    Raises:
      UserError: (a ValueError) a level, block or head that the network lacks, or too many panels.
    """
    panels: dict[str, tuple[BlockId, list[int]]] = {}
    for level_number in select("the network", "level", level, NUM_LEVELS):
        depth, head_count = config.depths[level_number], config.num_heads[level_number]
        last_global = (depth // 2) * 2 - 1  # -1 if the depth is 1: then the only block, a local one, is drawn.
        chosen = max(last_global, 0) if block is None else block
        for block_number in select(f"level {level_number}", "block", chosen, depth):
            kind = "global" if is_global(block_number) else "local"
            title, block_id = f"level {level_number}, block {block_number} ({kind})", (level_number, block_number)
            if head == "mean":
                panels[f"{title}, mean of the heads"] = block_id, list(range(head_count))
            else:
                for number in select(f"level {level_number}", "head", head, head_count):
                    panels[f"{title}, head {number}"] = block_id, [number]
    if len(panels) > _MAX_PANELS:
        raise UserError(
            f"{len(panels)} panels are too many, one picture shows {_MAX_PANELS}: choose a --level, a --block or "
            "--head mean"
        )
    return panels


if __name__ == "__main__":
    run_cli(main)
