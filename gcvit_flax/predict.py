"""Names what images show: `python -m gcvit_flax.predict MODEL_DIR IMAGE...`."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gcvit_flax.errors import UserError, run_cli
from gcvit_flax.images import preprocess

_BATCH_SIZE = 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses, predicts and prints a table or JSON lines; a broken image is reported and the others go on."""
    parser = argparse.ArgumentParser(prog="python -m gcvit_flax.predict", description=__doc__)
    parser.add_argument("model", metavar="MODEL_DIR", help="a folder that the trainer or the converter wrote")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files")
    parser.add_argument("--top-k", type=int, default=5, help="classes to name for each image")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line for each image")
    options = parser.parse_args(arguments)
    if options.top_k < 1:
        parser.error(f"--top-k must be at least 1, got {options.top_k}")

    failures = 0
    for path, result in predict(options.model, options.images, options.top_k):
        if isinstance(result, UserError):
            failures += 1
            print(f"error: {result}", file=sys.stderr)
        elif options.json:
            print(json.dumps({"image": path, "predictions": result}))
        else:
            print(path)
            for entry in result:
                print(f"  {entry['probability']:7.2%}  {entry['class']}")
    return 1 if failures else 0


def predict(
    model_dir: str, paths: Sequence[str], top_k: int = 5
) -> Iterator[tuple[str, list[dict[str, Any]] | UserError]]:
    """For each path its `top_k` classes, best first, as {"class", "index", "probability"}, or why it cannot be read.

    Raises:
      UserError: (a ValueError) a folder that is not a model with a head.
    """
    from gcvit_flax.devices import keep_compiled_programs, simulate_devices
    from gcvit_flax.inference import Predictor
    from gcvit_flax.weights.card import class_names, read_card
    from gcvit_flax.weights.store import load_model

    simulate_devices()
    keep_compiled_programs()
    model, variables = load_model(model_dir)
    if not model.config.num_classes:
        raise UserError(f"{model_dir} has no classifier head (num_classes is 0): predict needs a model with classes")
    names = class_names(read_card(model_dir))
    logits_of = Predictor(model, variables)
    batch_size = min(_BATCH_SIZE, len(paths))
    for start in range(0, len(paths), batch_size):
        chunk = paths[start : start + batch_size]
        images = [_read(path, model) for path in chunk]
        readable = [image for image in images if not isinstance(image, UserError)]
        probabilities = iter(_classify(logits_of, readable, batch_size))
        for path, image in zip(chunk, images, strict=True):
            yield path, image if isinstance(image, UserError) else _best(next(probabilities), names, top_k)


def _read(path: str, model) -> np.ndarray | UserError:
    try:
        return preprocess(path, model)[0]
    except UserError as error:
        return error


def _classify(logits_of, images: list[np.ndarray], batch_size: int) -> np.ndarray:
    """Class probabilities of `images`, filled up to `batch_size`, so that one compilation serves all batches."""
    if not images:
        return np.zeros((0, 0))
    filled = np.zeros((batch_size, *images[0].shape), np.float32)
    filled[: len(images)] = images
    return _softmax(np.asarray(logits_of(filled))[: len(images)])


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Class probabilities (B, classes) of logits."""
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def _best(probabilities: np.ndarray, names: Sequence[str], top_k: int) -> list[dict[str, Any]]:
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    return [{"class": names[i], "index": int(i), "probability": float(probabilities[i])} for i in order]


if __name__ == "__main__":
    run_cli(main)
