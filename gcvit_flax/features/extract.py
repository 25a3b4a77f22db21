"""Pooled features of the images of a data set."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from gcvit_flax.config import Preprocessing
from gcvit_flax.data.batches import Batch, evaluation_batches
from gcvit_flax.data.preprocess import normalize
from gcvit_flax.data.sources import Source
from gcvit_flax.errors import UserError
from gcvit_flax.features.labeled import LabeledFeatures
from gcvit_flax.inference import Predictor
from gcvit_flax.model.gcvit import GCViT


def extract_features(
    model: GCViT,
    variables: dict[str, Any],
    sources: Mapping[str, Source],
    batch_size: int,
    *,
    workers: int = 0,
    skip_corrupt: bool = False,
) -> dict[str, LabeledFeatures]:
    """The features of each of `sources`, in its order, from batches spread over all devices that divide them.

    A bar shows the progress if stderr is a terminal.

    Raises:
      UserError: (a ValueError) an image that cannot be read; with `skip_corrupt`, if none of a source can; or a model
        whose features are not finite.
    """
    predictor = Predictor(model, variables, "embed")
    total = sum(-(-len(source) // batch_size) for source in sources.values())
    # disable=None: a bar on terminals alone. Products in bfloat16 or TF32 are the defaults of TPUs and GPUs.
    bar = tqdm(total=total, desc="features", unit="batch", leave=False, disable=None, dynamic_ncols=True)
    with bar, jax.default_matmul_precision("highest"):
        extracted = {}
        for name, source in sources.items():
            batches = evaluation_batches(
                source, model.preprocessing, batch_size=batch_size, workers=workers, skip_corrupt=skip_corrupt
            )
            with contextlib.closing(batches):
                extracted[name] = _extract(predictor, model.preprocessing, batches, bar)
    return extracted


def _extract(
    predictor: Predictor, preprocessing: Preprocessing, batches: Iterator[Batch], bar: tqdm
) -> LabeledFeatures:
    values, labels = [], []
    for batch in batches:
        features = np.asarray(predictor(normalize(batch["image"], preprocessing)))
        values.append(features[batch["mask"]])
        labels.append(batch["label"][batch["mask"]])
        bar.update()
    extracted = LabeledFeatures(np.concatenate(values), np.concatenate(labels))
    if not len(extracted):
        raise UserError("none of the images can be read: check the data")
    if not np.isfinite(extracted.values).all():
        raise UserError("the model's features are not finite: its parameters are damaged, train it again")
    return extracted
