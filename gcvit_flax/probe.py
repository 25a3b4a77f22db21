"""Rates a network's frozen features: `python -m gcvit_flax.probe MODEL_DIR --data SPEC`.

Two classifiers of the pooled features, k-nearest neighbors and a linear probe, are fitted to the training part and
rated on the validation part. k and the strength of L2 regularization are chosen on a held-out fifth of the training
part; then all of it is used.
"""

import argparse
import dataclasses
import json
import logging
import os
from collections.abc import Sequence
from typing import Any

from gcvit_flax.cli import MODEL_HELP, add_data_options, check_minimum, program_name, run_cli
from gcvit_flax.errors import UserError


def main(arguments: Sequence[str] | None = None) -> None:
    """Probes and prints; accuracies are exact over the whole validation part."""
    parser = argparse.ArgumentParser(prog=program_name("python -m gcvit_flax.probe"), description=__doc__)
    parser.add_argument("model", metavar="MODEL_DIR", help=MODEL_HELP)
    add_data_options(parser)
    parser.add_argument("--seed", type=int, default=0, help="draws the fifth that settings are chosen on")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    check_minimum(parser, options, batch_size=1, workers=0, seed=0)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    results = probe(
        options.model,
        options.data,
        options.split,
        options.val_fraction,
        options.batch_size,
        workers=options.workers,
        skip_corrupt=options.skip_corrupt,
        seed=options.seed,
    )
    print(json.dumps(results) if options.json else _as_text(results))


def probe(
    model_dir: str,
    data_spec: str,
    split: str | None = None,
    val_fraction: float | None = None,
    batch_size: int = 32,
    *,
    workers: int = 0,
    skip_corrupt: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Top-1 accuracies (0..1) of both classifiers, the settings chosen for them, and the numbers of images.

    Raises:
      UserError: (a ValueError) a folder or data that cannot be opened, data without a training part or with too few
        images in it, or a model whose features are not finite.
    """
    # Slow to import, and needed only after the command line is checked.
    from gcvit_flax.data.datasets import open_data
    from gcvit_flax.devices import enable_compilation_cache, simulate_devices
    from gcvit_flax.features.extract import extract_features
    from gcvit_flax.features.probes import rate_features
    from gcvit_flax.weights.folder_config import held_out_fraction, read_folder_config
    from gcvit_flax.weights.model_folder import load_model
    from gcvit_flax.weights.pretrained import find_model_folder

    enable_compilation_cache()
    simulate_devices()
    model_dir = os.fspath(find_model_folder(model_dir))
    data = open_data(data_spec, held_out_fraction(read_folder_config(model_dir), val_fraction), split)
    if data.train[0][2] == data.validation[0][2]:
        raise UserError(f"{data_spec} has no training part beside its validation part: a probe needs both")
    model, variables = load_model(model_dir)
    sources = {"train": data.train, "validation": data.validation}
    parts = extract_features(model, variables, sources, batch_size, workers=workers, skip_corrupt=skip_corrupt)
    train, validation = parts["train"], parts["validation"]
    return {
        **rate_features(train, validation, len(data.class_names), seed),
        "train_count": len(train),
        "validation_count": len(validation),
        "skipped": len(data.train) + len(data.validation) - len(train) - len(validation),
        "classes": len(data.class_names),
        "features": train.values.shape[1],
        "seed": seed,
        "preprocessing": dataclasses.asdict(model.preprocessing),
    }


def _as_text(results: dict[str, Any]) -> str:
    neighbors, linear = results["nearest_neighbors"], results["linear"]
    lines = [
        f"k-nearest neighbors: top-1 {neighbors['top1']:.2%}, k = {neighbors['k']}",
        f"linear probe: top-1 {linear['top1']:.2%}, L2 = {linear['l2']:g}",
        "validation on {validation_count:,} images, after training on {train_count:,}, of which {held_out_count:,} "
        "chose k and L2 before (seed {seed})".format(**results),
        f"{results['features']:,} features, {results['classes']:,} classes",
    ]
    lines += [f"{results['skipped']:,} unreadable images left out"] if results["skipped"] else []
    return "\n".join(lines)


if __name__ == "__main__":
    run_cli(main)
