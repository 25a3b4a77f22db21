"""Evaluates a model folder on a data set: `python -m gcvit_flax.evaluate MODEL_DIR --data SPEC`."""

import argparse
import dataclasses
import json
import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gcvit_flax.cli import program_name, run_cli
from gcvit_flax.errors import UserError
from gcvit_flax.visualize.png import check_writable
from gcvit_flax.weights.classes import imagenet_classes


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses, evaluates and prints; top-1 and top-5 are exact over the whole split."""
    parser = argparse.ArgumentParser(prog=program_name("python -m gcvit_flax.evaluate"), description=__doc__)
    parser.add_argument("model", metavar="MODEL_DIR", help="a folder that the trainer or the converter wrote")
    parser.add_argument("--data", required=True, help="digits, folder:PATH or tfds:NAME")
    parser.add_argument("--split", help="part to evaluate on (default: val, else test, else the held-out fraction)")
    parser.add_argument(
        "--val-fraction", type=float, help="share held out where there is no such part (default: as in training, or .1)"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="images at a time, over all devices")
    parser.add_argument("--devices", type=int, help="devices to use (default: all that divide the batch)")
    parser.add_argument("--skip-corrupt", action="store_true", help="leave out images that cannot be read")
    parser.add_argument("--confusion", metavar="OUT.png", type=Path, help="draw which classes are taken for which")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object, with each class's accuracy beside --confusion"
    )
    options = parser.parse_args(arguments)
    if options.batch_size < 1:
        parser.error(f"--batch-size must be at least 1, got {options.batch_size}")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    results = evaluate(
        options.model,
        options.data,
        options.split,
        options.val_fraction,
        options.batch_size,
        devices=options.devices,
        skip_corrupt=options.skip_corrupt,
        confusion=options.confusion,
    )
    print(json.dumps(results) if options.json else _describe(results))


def evaluate(
    model_dir: str,
    data_spec: str,
    split: str | None = None,
    val_fraction: float | None = None,
    batch_size: int = 32,
    *,
    devices: int | None = None,
    skip_corrupt: bool = False,
    confusion: Path | None = None,
) -> dict[str, Any]:
    """Mean loss, top-1 and top-5 accuracy (0..1), count, skipped and the preprocessing, of a model on a data set.

    `confusion` is where to draw the confusion matrix; then "classes" has each class's top1 and count.

    Raises:
      UserError: (a ValueError) a folder or data that cannot be opened, classes that do not fit the model's, a model
        whose outputs are not finite, or a picture that cannot be written.
    """
    from gcvit_flax.data.datasets import open_data
    from gcvit_flax.devices import choose_devices, enable_compilation_cache, simulate_devices
    from gcvit_flax.training.evaluation import run_evaluation
    from gcvit_flax.training.steps import make_eval_step, replicate
    from gcvit_flax.weights.folder_config import class_names, read_folder_config
    from gcvit_flax.weights.model_folder import load_model

    enable_compilation_cache()
    simulate_devices(devices)
    chosen = choose_devices(batch_size, devices)
    if confusion is not None:
        check_writable(confusion)  # Before the work.
    folder_config = read_folder_config(model_dir)
    if val_fraction is None:  # Not another one: it could be images that the model was trained on.
        val_fraction = (folder_config["provenance"] or {}).get("val_fraction", 0.1)
    data = open_data(data_spec, val_fraction, split)
    model, variables = load_model(model_dir)
    _check_classes(data.class_names, folder_config["class_names"], model.config.num_classes)
    source, preprocessing = data.validation, model.preprocessing
    step = make_eval_step(model, chosen, confusion=confusion is not None)
    params = replicate(variables["params"], chosen)
    results = run_evaluation(step, params, source, preprocessing, batch_size, chosen, skip_corrupt)
    if not math.isfinite(results["loss"]):
        raise UserError(f"{model_dir} gives a loss of {results['loss']}: its parameters are damaged, train it again")
    counts = results.pop("confusion", None)
    results["skipped"] = len(source) - results["count"]
    results["preprocessing"] = dataclasses.asdict(preprocessing)
    if counts is not None:
        from gcvit_flax.visualize.confusion import draw_confusion

        names = [*data.class_names, *class_names(folder_config)[len(data.class_names) :]]
        draw_confusion(counts, names, f"top-1 {results['top1']:.2%} of {results['count']:,} images", confusion)
        results["classes"] = _by_class(counts, data.class_names)
    return results


def _check_classes(of_data: tuple[str, ...], of_model: list[str] | None, num_classes: int) -> None:
    """Labels are positions, so a model and data of different classes would be compared in vain."""
    if len(of_data) > num_classes:
        raise UserError(f"the data has {len(of_data)} classes and the model {num_classes}: evaluate on data of its own")
    if of_model == imagenet_classes() and _are_imagenet_ids(of_data):
        return
    for name, other in zip(of_data, of_model or (), strict=False):
        if name != other:
            raise UserError(
                f"the data's class {name!r} stands where the model has {other!r}: name and order them alike"
            )


def _are_imagenet_ids(names: tuple[str, ...]) -> bool:
    """Whether classes are named n01440764 ... as in ImageNet's own folders, whose sorted order numbers its classes."""
    return len(names) == 1000 and list(names) == sorted(names) and all(re.fullmatch(r"n\d{8}", n) for n in names)


def _by_class(counts, names: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Each class's accuracy, None for a class without images, and how many it has, from confusion counts."""
    totals, right = counts.sum(1), counts.diagonal()
    return {
        name: {"top1": int(right[i]) / int(totals[i]) if totals[i] else None, "count": int(totals[i])}
        for i, name in enumerate(names)
    }


def _describe(results: dict[str, Any]) -> str:
    """The results for people: the numbers, and the preprocessing they depend on."""
    (height, width), mode = results["preprocessing"]["image_size"], results["preprocessing"]["crop_mode"]
    crop = "whole images squashed" if mode == "squash" else "center crop"
    text = "top-1 {top1:.2%}, top-5 {top5:.2%}, loss {loss:.4f} over {count:,} images".format(**results)
    text += f", {results['skipped']:,} unreadable ones left out" if results["skipped"] else ""
    return text + (
        f"\npreprocessing: {height} x {width} px, {crop}, "
        "crop fraction {crop_fraction:g}, {kernel}, mean {mean}, std {std}".format(**results["preprocessing"])
    )


if __name__ == "__main__":
    run_cli(main)
