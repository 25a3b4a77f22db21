"""Writes a network's features of images: `python -m gcvit_flax.embed MODEL_DIR INPUT... OUT.npz`.

OUT.npz has `names`, the images' paths (n,), and `features`, float32: the pooled ones (n, C), or with --maps those of a
level's map (n, H, W, C).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gcvit_flax.atomic import check_replaceable, replacing_file
from gcvit_flax.classify import apply_to_files
from gcvit_flax.cli import add_inputs, check_minimum, program_name, run_cli
from gcvit_flax.config import NUM_LEVELS, Preprocessing
from gcvit_flax.data.image_files import find_images
from gcvit_flax.errors import UserError

if TYPE_CHECKING:  # JAX is slow to import.
    from gcvit_flax.inference import Predictor


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the file; an image that cannot be read is reported and left out, and then the exit status is 1."""
    options = _parse(arguments)
    paths = find_images(options.inputs)
    if options.out.suffix != ".npz":
        raise UserError(f"the last argument is the file to write, whose name must end in .npz, got {options.out}")
    check_replaceable(options.out, "a file")

    predictor, preprocessing = _open(options.model, options.maps, options.dtype)
    names, features = [], []
    for path, result in apply_to_files(predictor, preprocessing, paths, options.batch_size):
        if isinstance(result, UserError):
            print(f"error: {result}", file=sys.stderr)
            continue
        if not np.isfinite(result).all():
            raise UserError(f"{options.model} gives features that are not finite: its parameters are damaged")
        names.append(path)
        features.append(result)
    if not features:
        raise UserError(f"none of the {len(paths)} images can be read, and {options.out} is not written: name others")
    _write(options.out, names, features)
    shape = " x ".join(map(str, features[0].shape))
    print(f"{options.out}: {len(names):,} of {len(paths):,} images, {shape} features of each")
    return 0 if len(names) == len(paths) else 1


def _write(out: Path, names: list[str], features: list[np.ndarray]) -> None:
    try:
        with replacing_file(out) as draft, draft.open("wb") as file:
            np.savez(file, names=np.array(names), features=np.stack(features))
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror or error}): choose another place") from error


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program_name("python -m gcvit_flax.embed"), description=__doc__)
    add_inputs(parser)
    parser.add_argument("out", metavar="OUT.npz", type=Path, help="the file to write")
    parser.add_argument(
        "--maps",
        metavar="LEVEL",
        type=int,
        choices=range(NUM_LEVELS),
        help="write the map of a level, 0 to 3 (strides 4 to 32), instead of the pooled features",
    )
    parser.add_argument("--batch-size", type=int, default=16, help="images at a time, over all devices")
    options = parser.parse_args(arguments)
    check_minimum(parser, options, batch_size=1)
    return options


def _open(model_dir: str, level: int | None, dtype: str) -> "tuple[Predictor, Preprocessing]":
    """The model in a folder as a function of images to the features that are asked for, and its preprocessing."""
    # Slow to import, and needed only after the command line is checked.
    import jax
    import jax.numpy as jnp

    from gcvit_flax.devices import enable_compilation_cache, simulate_devices
    from gcvit_flax.inference import Predictor
    from gcvit_flax.model.gcvit import GCViT
    from gcvit_flax.weights.model_folder import load_model

    def level_map(network: GCViT, images: jax.Array) -> jax.Array:
        return network.features(images)[level or 0].astype(jnp.float32)

    simulate_devices()
    enable_compilation_cache()
    model, variables = load_model(model_dir, dtype=jnp.dtype(dtype))
    return Predictor(model, variables, "embed" if level is None else level_map), model.preprocessing


if __name__ == "__main__":
    run_cli(main)
