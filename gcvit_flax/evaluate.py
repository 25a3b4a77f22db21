"""Evaluates a model folder on a data set: `python -m gcvit_flax.evaluate MODEL_DIR --data SPEC`."""

import argparse
import dataclasses
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gcvit_flax.cli import MODEL_HELP, add_data_options, check_minimum, program_name, run_cli
from gcvit_flax.errors import UserError
from gcvit_flax.visualize.png import check_writable
from gcvit_flax.weights.classes import match_classes


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluates and prints; top-1 and top-5 accuracy are exact over the whole split."""
    options = _parse(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    results = evaluate(
        options.model,
        options.data,
        options.split,
        options.val_fraction,
        options.batch_size,
        devices=options.devices,
        workers=options.workers,
        skip_corrupt=options.skip_corrupt,
        confusion=options.confusion,
    )
    print(json.dumps(results) if options.json else _as_text(results))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program_name("python -m gcvit_flax.evaluate"), description=__doc__)
    parser.add_argument("model", metavar="MODEL_DIR", help=MODEL_HELP)
    add_data_options(parser)
    parser.add_argument("--devices", type=int, help="devices to use (default: all that divide the batch)")
    parser.add_argument("--confusion", metavar="OUT.png", type=Path, help="draw the confusion matrix")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object; with --confusion it has each class's accuracy"
    )
    options = parser.parse_args(arguments)
    check_minimum(parser, options, batch_size=1, workers=0)
    return options


def evaluate(
    model_dir: str,
    data_spec: str,
    split: str | None = None,
    val_fraction: float | None = None,
    batch_size: int = 32,
    *,
    devices: int | None = None,
    workers: int = 0,
    skip_corrupt: bool = False,
    confusion: Path | None = None,
) -> dict[str, Any]:
    """Evaluates a model on a data set: mean loss, top-1 and top-5 accuracy (0..1), count, skipped, preprocessing.

    Data with some of the model's classes (`match_classes`) is evaluated on their logits alone, "evaluated_classes" of
    "model_classes". The confusion matrix is drawn into the PNG file `confusion`, and then "classes" has each class's
    top1 and count.

    Raises:
      UserError: (a ValueError) a folder or data that cannot be opened, classes that do not fit the model's, a model
        whose outputs are not finite, or a picture that cannot be written.
    """
    # Slow to import, and needed only after the command line is checked.
    import jax

    from gcvit_flax.data.datasets import open_to_evaluate
    from gcvit_flax.devices import choose_devices, enable_compilation_cache, simulate_devices
    from gcvit_flax.training.evaluation import run_evaluation
    from gcvit_flax.training.pmapped import replicate
    from gcvit_flax.training.steps import make_eval_step
    from gcvit_flax.visualize.confusion import draw_confusion
    from gcvit_flax.weights.folder_config import class_names, held_out_fraction, read_folder_config
    from gcvit_flax.weights.model_folder import load_with_description
    from gcvit_flax.weights.pretrained import find_model_folder

    enable_compilation_cache()
    simulate_devices(devices)
    chosen = choose_devices(batch_size, devices)
    if confusion is not None:
        check_writable(confusion)
    held_out = held_out_fraction(read_folder_config(find_model_folder(model_dir)), val_fraction)
    data = open_to_evaluate(data_spec, held_out, split)
    model, variables, folder_config = load_with_description(model_dir)
    classes = match_classes(data.class_names, folder_config["class_names"], model.config.num_classes)
    step = make_eval_step(model, chosen, confusion=confusion is not None, classes=classes)
    what = {"model": replicate(variables["params"], chosen)}, data.validation, model.preprocessing, batch_size, chosen
    # The model's accuracy, not that of products in bfloat16 or TF32, the defaults of TPUs and GPUs for float32.
    with jax.default_matmul_precision("highest"):
        results = run_evaluation(step, *what, skip_corrupt=skip_corrupt, workers=workers)["model"]
    if not math.isfinite(results["loss"]):
        raise UserError(f"{model_dir} gives a loss of {results['loss']}: its parameters are damaged, train it again")
    results["skipped"] = len(data.validation) - results["count"]
    results["model_classes"] = model.config.num_classes
    results["evaluated_classes"] = model.config.num_classes if classes is None else len(classes)
    results["preprocessing"] = dataclasses.asdict(model.preprocessing)
    if confusion is not None:
        names = [*data.class_names, *class_names(folder_config)[len(data.class_names) : results["evaluated_classes"]]]
        draw_confusion(results["confusion"], names, "top-1 {top1:.2%} of {count:,} images".format(**results), confusion)
        results["classes"] = _accuracy_by_class(results.pop("confusion"), data.class_names)
    return results


def _accuracy_by_class(counts: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Each class's accuracy (None without images) and number of images, from confusion counts (true, predicted)."""
    totals, right = counts.sum(1), counts.diagonal()
    return {
        name: {"top1": int(right[i]) / int(totals[i]) if totals[i] else None, "count": int(totals[i])}
        for i, name in enumerate(names)
    }


def _as_text(results: dict[str, Any]) -> str:
    """The results as text: the numbers, and the preprocessing that they depend on."""
    (height, width), mode = results["preprocessing"]["image_size"], results["preprocessing"]["crop_mode"]
    crop = "whole images squashed" if mode == "squash" else "center crop"
    text = "top-1 {top1:.2%}, top-5 {top5:.2%}, loss {loss:.4f} over {count:,} images".format(**results)
    text += f", {results['skipped']:,} unreadable ones left out" if results["skipped"] else ""
    if results["evaluated_classes"] < results["model_classes"]:
        text += "\nclasses: the data's {evaluated_classes:,} of the model's {model_classes:,}, ".format(**results)
        text += "whose logits alone were compared"
    return text + (
        f"\npreprocessing: {height} x {width} px, {crop}, "
        "crop fraction {crop_fraction:g}, {kernel}, mean {mean}, std {std}".format(**results["preprocessing"])
    )


if __name__ == "__main__":
    run_cli(main)
