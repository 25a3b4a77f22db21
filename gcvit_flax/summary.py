"""Says what a network costs: `python -m gcvit_flax.summary VARIANT|MODEL_DIR [--image-size PX]`."""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gcvit_flax.cli import program_name, run_cli
from gcvit_flax.config import NUM_LEVELS, GCViTConfig, level_grids
from gcvit_flax.variants import PUBLISHED_TOP1, VARIANTS, variant_name

_SOURCE = "ImageNet-1k, by the official release for its own weights, not measured here"
_COUNTS = ("parameters", "multiply_adds", "activations")
# The parts in the table, and in the tree of parameters; the last norm counts with the head.
_PARTS = {"stem": "patch_embed", **{f"level {level}": f"levels_{level}" for level in range(NUM_LEVELS)}, "head": "head"}
_ROW = "{:<8} {:>16} {:>13} {:>16} {:>14}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints parameters, multiply-adds and activations, level by level and in all."""
    parser = argparse.ArgumentParser(prog=program_name("python -m gcvit_flax.summary"), description=__doc__)
    parser.add_argument("network", metavar="VARIANT|MODEL_DIR", help=f"a model folder, or of {', '.join(VARIANTS)}")
    parser.add_argument("--image-size", type=int, nargs="+", metavar="PX", help="side, or height and width")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    if options.image_size is not None and len(options.image_size) > 2:
        parser.error("--image-size takes one side or a height and a width")
    size = options.image_size and (options.image_size[0], options.image_size[-1])
    summary = summarize(options.network, size)
    print(json.dumps(summary) if options.json else _as_text(summary))


def summarize(network: str, image_size: tuple[int, int] | None = None) -> dict[str, Any]:
    """What the forward pass for one image of a variant or a model folder costs; nothing is computed or fetched.

    Multiply-adds are those of matrix products and convolutions, and activations the values that these return.

    Raises:
      UserError: (a ValueError) neither a variant nor a model folder, or a size that does not fit.
    """
    # Slow to import, and needed only after the command line is checked.
    import jax.numpy as jnp

    from gcvit_flax.model.forward_cost import forward_costs
    from gcvit_flax.model.gcvit import create_model
    from gcvit_flax.model.tree import parameter_shapes
    from gcvit_flax.weights.model_folder import adapted_model

    if network in VARIANTS and not Path(network).is_dir():
        model = create_model(network, image_size=image_size or VARIANTS[network].image_size)
    else:
        model = adapted_model(network, dtype=jnp.float32, remat=False, image_size=image_size)
    config, size = model.config, model.preprocessing.image_size
    costs, shapes = forward_costs(model), parameter_shapes(config)
    parts = []
    for title, name in _PARTS.items():
        own = (name, "norm") if name == "head" else (name,)
        counts = {
            "parameters": sum(leaf.size for path, leaf in shapes.items() if path.split("/")[0] in own),
            "multiply_adds": costs[name].multiply_adds,
            "activations": costs[name].activations,
        }
        parts.append({"name": title, "output": _output(name, config, size), **counts})
    variant = variant_name(config)
    published = None
    if variant and config.image_size == VARIANTS[variant].image_size:
        published = {"value": PUBLISHED_TOP1[variant], "source": _SOURCE}
    return {
        "variant": variant,
        "image_size": list(size),
        "config": dataclasses.asdict(config),
        **{count: sum(part[count] for part in parts) for count in _COUNTS},
        "parts": parts,
        "published_top1": published,
    }


def _output(name: str, config: GCViTConfig, size: tuple[int, int]) -> list[int]:
    """The shape of a part's features: (height, width, channels), of a level before its downsampling, or (classes,)."""
    if name == "head":
        return [config.num_classes or config.dims[-1]]
    level = 0 if name == "patch_embed" else int(name[-1])
    return [*level_grids(size)[level], config.dims[level]]


def _as_text(summary: dict[str, Any]) -> str:
    size, classes = "x".join(map(str, summary["image_size"])), summary["config"]["num_classes"]
    what = summary["variant"] or "no published variant"
    channels = summary["config"]["in_channels"]
    lines = [f"{what}, {size} px, {channels} channel{'s'[: channels > 1]}, {classes} classes", ""]
    lines.append(_ROW.format("", "output", "parameters", "multiply-adds", "activations"))
    for part in summary["parts"]:
        output = " x ".join(map(str, part["output"]))
        lines.append(_ROW.format(part["name"], output, *(f"{part[count]:,}" for count in _COUNTS)))
    lines.append(_ROW.format("in all", "", *(f"{summary[count]:,}" for count in _COUNTS)))
    if top1 := summary["published_top1"]:
        lines += ["", f"published top-1 of {summary['variant']}: {top1['value']} % ({top1['source']})"]
    return "\n".join(lines)


if __name__ == "__main__":
    run_cli(main)
