"""Names what images show: `python -m gcvit_flax.predict MODEL_DIR INPUT...`."""

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from gcvit_flax.cli import program_name, run_cli
from gcvit_flax.config import Preprocessing
from gcvit_flax.data.crops import evaluation_crop, whole_image
from gcvit_flax.data.decode import decode
from gcvit_flax.data.image_files import find_images
from gcvit_flax.data.preprocess import normalize
from gcvit_flax.errors import UserError
from gcvit_flax.visualize.png import check_writable
from gcvit_flax.weights.classes import best_classes

_WHOLE_AT_A_TIME = 64  # Whole images are of up to five shapes: from more of them, fuller batches of each are made.

_WHOLE_HELP = """show the network all of each image, squashed to the nearest of five shapes, and not the middle alone:
for subjects at the edge and for wide or tall photos; without it the network sees what its accuracy was measured on, and
one shape is compiled instead of up to five"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses, predicts and prints a table or JSON lines; a broken image is reported and the others go on."""
    options = _parse(arguments)
    paths = find_images(options.inputs)
    if options.heatmap:
        if len(paths) != 1:
            raise UserError(f"--heatmap draws one image, and the inputs are {len(paths)}: name one")
        check_writable(options.heatmap)
    # Between Pillow's two limits, 90 and 180 megapixels, it warns; above, it refuses.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    sys.stdout.reconfigure(errors="surrogateescape")  # Names of files that are not text come out as they went in.

    model, variables, names = open_classifier(options.model, whole=options.whole)
    failures = 0
    silent = len(paths) <= options.batch_size or not sys.stderr.isatty()
    with tqdm(total=len(paths), unit="image", leave=False, dynamic_ncols=True, disable=silent) as bar:
        for path, result in predict(model, variables, names, paths, options.top_k, options.batch_size, options.whole):
            if isinstance(result, UserError):
                failures += 1
                bar.write(f"error: {result}", file=sys.stderr)
            else:
                bar.write(_as_json(path, result) if options.json else _as_table(path, result), file=sys.stdout)
                sys.stdout.flush()
            bar.update()
    if options.heatmap and not failures:
        from gcvit_flax.visualize.grad_cam import draw_heat_map

        draw_heat_map(model, variables, paths[0], options.heatmap, options.whole)
    return 1 if failures else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program_name("python -m gcvit_flax.predict"), description=__doc__)
    parser.add_argument("model", metavar="MODEL_DIR", help="a folder that the trainer or the converter wrote")
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        help="image files, folders (all images below), quoted patterns such as 'photos/**/*.jpg', or - for one path a "
        "line on standard input",
    )
    parser.add_argument("--top-k", type=int, default=5, help="classes to name for each image")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line for each image")
    parser.add_argument("--batch-size", type=int, default=16, help="images at a time, over all devices")
    parser.add_argument("--whole", action="store_true", help=_WHOLE_HELP)
    parser.add_argument(
        "--heatmap", metavar="OUT.png", help="draw over the one image where the network sees its best class (Grad-CAM)"
    )
    options = parser.parse_args(arguments)
    for name in ("top_k", "batch_size"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    return options


def _as_json(path: str, result: list[dict[str, Any]]) -> str:
    return json.dumps({"image": path, "predictions": result})


def _as_table(path: str, result: list[dict[str, Any]]) -> str:
    return "\n".join([path, *(f"  {entry['probability']:7.2%}  {entry['class']}" for entry in result)])


def open_classifier(model_dir: str, whole: bool = False):
    """The model in a folder, its variables and its class names; with `whole`, a model that takes images of any size.

    Raises:
      UserError: (a ValueError) a folder that is not a model with a head.
    """
    from gcvit_flax.devices import enable_compilation_cache, simulate_devices
    from gcvit_flax.weights.folder_config import class_names, read_folder_config
    from gcvit_flax.weights.model_folder import load_model

    simulate_devices()
    enable_compilation_cache()
    model, variables = load_model(model_dir, pad_to_windows=whole or None)
    if not model.config.num_classes:
        raise UserError(f"{model_dir} has no classifier head (num_classes is 0): predict needs a model with classes")
    return model, variables, class_names(read_folder_config(model_dir))


def predict(
    model,
    variables: dict,
    names: Sequence[str],
    paths: Sequence[str],
    top_k: int = 5,
    batch_size: int = 16,
    whole: bool = False,
) -> Iterator[tuple[str, list[dict[str, Any]] | UserError]]:
    """For each path its `top_k` classes, best first, as {"class", "index", "probability"}, or why it cannot be read.

    They come in the order of `paths`, a batch at a time. With `whole`, for models with `pad_to_windows`, the network is
    shown all of each image (`whole_image`); each shape is compiled once.

    Raises:
      UserError: (a ValueError) a model whose outputs are not finite.
    """
    from gcvit_flax.inference import Predictor

    predictor = Predictor(model, variables)
    at_a_time = max(batch_size, _WHOLE_AT_A_TIME) if whole else batch_size
    for start in range(0, len(paths), at_a_time):
        chunk = paths[start : start + at_a_time]
        images = [_read(path, model.preprocessing, whole) for path in chunk]
        readable = [image for image in images if not isinstance(image, UserError)]
        logits = iter(_logits(predictor, model.preprocessing, readable, batch_size, shrink=len(paths) <= at_a_time))
        for path, image in zip(chunk, images, strict=True):
            yield path, image if isinstance(image, UserError) else _best(next(logits), names, top_k)


def _read(path: str, preprocessing: Preprocessing, whole: bool) -> np.ndarray | UserError:
    """What the network sees of a file, uint8 (H, W, 3); nothing of the file's own size is kept."""
    try:
        image = decode(path)
        if min(image.size) < 2:
            raise UserError(
                f"{path}: {image.width}x{image.height} px, expected at least 2 a side; replace or remove it"
            )
    except UserError as error:
        return error
    return evaluation_crop(image, whole_image(image, preprocessing) if whole else preprocessing)


def _logits(
    predictor, preprocessing: Preprocessing, images: list[np.ndarray], batch_size: int, *, shrink: bool
) -> list[np.ndarray]:
    """Each image's logits (classes,), computed in batches of one shape, filled up so that a shape compiles once.

    With `shrink`, for where no other images will follow, a batch is no larger than the power of two that holds a
    shape's images: few sizes, which the compilation cache soon has.
    """
    logits = {}
    for shape in {image.shape for image in images}:
        same = [index for index, image in enumerate(images) if image.shape == shape]
        size = min(batch_size, 1 << (len(same) - 1).bit_length()) if shrink else batch_size
        for start in range(0, len(same), size):
            batch = same[start : start + size]
            filled = np.zeros((size, *shape), np.uint8)
            filled[: len(batch)] = [images[index] for index in batch]
            rows = np.asarray(predictor(normalize(filled, preprocessing)))
            logits |= zip(batch, rows, strict=False)  # What filled the batch up is left.
    return [logits[index] for index in range(len(images))]


def _best(logits: np.ndarray, names: Sequence[str], top_k: int) -> list[dict[str, Any]]:
    if not np.isfinite(logits).all():
        raise UserError("the model's outputs are not finite: its parameters are damaged, train or convert it again")
    best = best_classes(logits, top_k)
    return [{"class": names[index], "index": index, "probability": probability} for index, probability in best]


if __name__ == "__main__":
    run_cli(main)
