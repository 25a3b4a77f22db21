"""Classifies images: `python -m gcvit_flax.predict MODEL_DIR INPUT...`."""

import argparse
import contextlib
import csv
import io
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from PIL import Image
from tqdm import tqdm

from gcvit_flax.atomic import check_replaceable, replacing_file
from gcvit_flax.classify import predict
from gcvit_flax.cli import add_inputs, check_minimum, program_name, run_cli
from gcvit_flax.config import NUM_LEVELS
from gcvit_flax.data.decode import UnreadableImage
from gcvit_flax.data.image_files import find_images
from gcvit_flax.errors import UserError
from gcvit_flax.visualize.heat_maps import heat_map_paths, make_folders
from gcvit_flax.weights.classes import class_index

if TYPE_CHECKING:
    from gcvit_flax.model.gcvit import GCViT

_CSV_COLUMNS = ("image", "rank", "class", "wordnet_id", "index", "probability")
_WHOLE_HELP = """show the network the whole of each image, squashed to the nearest of five shapes, instead of its center
crop: for subjects at the edge and for wide or tall photos; the model's accuracy was measured on center crops, which
also compile one shape instead of up to five"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Predicts and prints each result; an image that cannot be read is reported and the others follow."""
    options = _parse(arguments)
    paths = find_images(options.inputs)
    pictures = heat_map_paths(options.heatmap, paths) if options.heatmap else {}
    # Between Pillow's two limits, 90 and 180 megapixels, it warns; above, it refuses.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    model, variables, names = open_classifier(options.model, whole=options.whole, dtype=options.dtype)
    chosen = None if options.heatmap_class is None else class_index(options.heatmap_class, names)
    if pictures:
        from gcvit_flax.visualize.grad_cam import draw_heat_map  # Slow to import.

        make_folders(pictures.values())
    exact = model.clone(dtype=np.float32)  # Pictures are few.
    show = _as_json if options.json else _as_table if options.csv is None else _as_csv
    failures = 0
    silent = len(paths) <= options.batch_size or not sys.stderr.isatty()
    bar = tqdm(total=len(paths), unit="image", leave=False, dynamic_ncols=True, disable=silent)
    with _output(options.csv) as output, bar:
        if options.csv is not None:
            print(_csv_line(_CSV_COLUMNS), file=output)
        for path, result in predict(model, variables, names, paths, options.top_k, options.batch_size, options.whole):
            if isinstance(result, UserError):
                failures += 1
                bar.write(f"error: {result}", file=sys.stderr)
            else:
                bar.write(show(path, result), file=output)
                output.flush()
                if pictures:
                    index = result[0]["index"] if chosen is None else chosen
                    where, level = (path, pictures[path], options.whole), options.heatmap_level
                    try:
                        draw_heat_map(exact, variables, *where, class_index=index, level=level)
                    except UnreadableImage as error:  # There may be memory for its classes but not for its picture.
                        failures += 1
                        bar.write(f"error: {error}", file=sys.stderr)
            bar.update()
    return 1 if failures else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program_name("python -m gcvit_flax.predict"), description=__doc__)
    add_inputs(parser)
    parser.add_argument("--top-k", type=int, default=5, help="classes to name for each image")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object per line for each image")
    form.add_argument(
        "--csv",
        nargs="?",
        const="",
        metavar="FILE.csv",
        help="make a CSV table, with one line for each class of each image, in a file, or else print it",
    )
    parser.add_argument("--batch-size", type=int, default=16, help="images at a time, over all devices")
    parser.add_argument("--whole", action="store_true", help=_WHOLE_HELP)
    parser.add_argument(
        "--heatmap",
        metavar="OUT",
        help="draw where the network sees a class (Grad-CAM): OUT.png for a single image, else a folder",
    )
    parser.add_argument(
        "--heatmap-class", metavar="CLASS", help="a name, index or WordNet id (default: each image's best class)"
    )
    parser.add_argument(
        "--heatmap-level",
        type=int,
        choices=range(NUM_LEVELS),
        help="the level whose map is shown (default: the last; others are finer)",
    )
    arguments = sys.argv[1:] if arguments is None else arguments
    # What follows is the table only if it is named as one; an image would be replaced, and --csv prints.
    pairs = zip(arguments, [*arguments[1:], ""], strict=True)
    prints = [word == "--csv" and not after.lower().endswith(".csv") for word, after in pairs]
    options = parser.parse_args(["--csv=" if p else word for p, word in zip(prints, arguments, strict=True)])
    check_minimum(parser, options, top_k=1, batch_size=1)
    if options.heatmap is None and (options.heatmap_class, options.heatmap_level) != (None, None):
        parser.error("--heatmap-class and --heatmap-level need --heatmap")
    if options.csv:
        if not options.csv.lower().endswith(".csv"):
            parser.error(f"a table's name must end in .csv, got {options.csv}")
        check_replaceable(Path(options.csv), "a table")
    return options


@contextlib.contextmanager
def _output(table: str | None) -> Iterator[TextIO]:
    """What results are written to: the file `table`, which is there once it is whole, or stdout if none is named.

    File names that are not valid text are written unchanged.
    """
    if table:
        with replacing_file(table) as draft, open(draft, "w", encoding="utf-8", errors="surrogateescape") as file:
            yield file
    else:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="surrogateescape")
        yield sys.stdout


def _as_json(path: str, result: list[dict[str, Any]]) -> str:
    return json.dumps({"image": path, "predictions": result})


def _as_csv(path: str, result: list[dict[str, Any]]) -> str:
    rows = ({"image": path, "rank": rank, **entry} for rank, entry in enumerate(result, 1))
    return "\n".join(_csv_line([row.get(column, "") for column in _CSV_COLUMNS]) for row in rows)


def _csv_line(values: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()


def _as_table(path: str, result: list[dict[str, Any]]) -> str:
    return "\n".join([path, *(f"  {entry['probability']:7.2%}  {entry['class']}" for entry in result)])


def open_classifier(
    model_dir: str, whole: bool = False, dtype: str = "float32"
) -> "tuple[GCViT, dict[str, Any], list[str]]":
    """The model in a folder, its variables and its class names; with `whole`, the model takes images of any size.

    Raises:
      UserError: (a ValueError) a folder that is not a model with a head.
    """
    # Slow to import, and needed only after the command line is checked.
    import jax.numpy as jnp

    from gcvit_flax.devices import enable_compilation_cache, simulate_devices
    from gcvit_flax.weights.folder_config import class_names
    from gcvit_flax.weights.model_folder import load_with_description

    simulate_devices()
    enable_compilation_cache()
    model, variables, folder_config = load_with_description(
        model_dir, pad_to_windows=whole or None, dtype=jnp.dtype(dtype)
    )
    if not model.config.num_classes:
        raise UserError(f"{model_dir} has no classifier head (num_classes is 0): predict needs a model with classes")
    return model, variables, class_names(folder_config)


if __name__ == "__main__":
    run_cli(main)
