"""Exact evaluation: sums over every example of a split, divided once at the end."""

from collections.abc import Callable

import jax
import numpy as np

from gcvit_flax.config import Preprocessing
from gcvit_flax.training.data import Source
from gcvit_flax.training.pipeline import evaluation_batches
from gcvit_flax.training.steps import shard


def run_evaluation(
    eval_step: Callable, params, source: Source, preprocessing: Preprocessing, batch_size: int, devices: list
) -> dict[str, float]:
    """Mean loss, top-1 and top-5 accuracy (0..1) over all of `source`, and their count, whatever the batch size."""
    process = (jax.process_index(), jax.process_count())
    batches = evaluation_batches(source, preprocessing, batch_size=batch_size, process=process)
    sums = [eval_step(params, shard(batch, devices)) for batch in batches]
    totals = {name: float(np.sum([s[name] for s in jax.device_get(sums)])) for name in sums[0]}
    count = totals.pop("count")
    return {**{name: total / count for name, total in totals.items()}, "count": int(count)}
