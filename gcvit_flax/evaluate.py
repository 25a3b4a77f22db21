"""Evaluates a model folder on a data set: `python -m gcvit_flax.evaluate MODEL_DIR --data SPEC`."""

import argparse
import json
from collections.abc import Sequence

from gcvit_flax.errors import UserError, run_cli


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses, evaluates and prints; top-1 and top-5 are exact over the whole split."""
    parser = argparse.ArgumentParser(prog="python -m gcvit_flax.evaluate", description=__doc__)
    parser.add_argument("model", metavar="MODEL_DIR", help="a folder that the trainer or the converter wrote")
    parser.add_argument("--data", required=True, help="digits, folder:PATH or tfds:NAME")
    parser.add_argument("--split", help="part to evaluate on (default: val, else test, else the held-out fraction)")
    parser.add_argument("--val-fraction", type=float, default=0.1, help="share held out where there is no such part")
    parser.add_argument("--batch-size", type=int, default=32, help="images at a time, over all devices")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    if options.batch_size < 1:
        parser.error(f"--batch-size must be at least 1, got {options.batch_size}")
    results = evaluate(options.model, options.data, options.split, options.val_fraction, options.batch_size)
    if options.json:
        print(json.dumps(results))
    else:
        print("top-1 {top1:.2%}, top-5 {top5:.2%}, loss {loss:.4f} over {count:,} images".format(**results))


def evaluate(
    model_dir: str, data_spec: str, split: str | None = None, val_fraction: float = 0.1, batch_size: int = 32
) -> dict[str, float]:
    """Mean loss, top-1 and top-5 accuracy (0..1), and the number of images, of a model folder on a data set.

    Raises:
      UserError: (a ValueError) a folder or data that cannot be opened, or classes that do not fit the model's.
    """
    from gcvit_flax.devices import choose_devices, keep_compiled_programs
    from gcvit_flax.training.data import open_data
    from gcvit_flax.training.evaluation import run_evaluation
    from gcvit_flax.training.steps import make_eval_step, replicate
    from gcvit_flax.weights.card import read_card
    from gcvit_flax.weights.store import load_model

    keep_compiled_programs()
    devices = choose_devices(batch_size)
    data = open_data(data_spec, val_fraction, split)
    model, variables = load_model(model_dir)
    _check_classes(data.class_names, read_card(model_dir)["class_names"], model.config.num_classes)
    params = replicate(variables["params"], devices)
    return run_evaluation(
        make_eval_step(model, devices), params, data.validation, model.preprocessing, batch_size, devices
    )


def _check_classes(of_data: tuple[str, ...], of_model: list[str] | None, num_classes: int) -> None:
    """Labels are positions, so a model and data of different classes would be compared in vain."""
    if len(of_data) > num_classes:
        raise UserError(f"the data has {len(of_data)} classes and the model {num_classes}: evaluate on data of its own")
    if of_model is not None and len(of_model) == len(of_data) and list(of_data) != of_model:
        name, other = next((a, b) for a, b in zip(of_data, of_model, strict=True) if a != b)
        raise UserError(f"the data's class {name!r} stands where the model has {other!r}: name and order them alike")


if __name__ == "__main__":
    run_cli(main)
