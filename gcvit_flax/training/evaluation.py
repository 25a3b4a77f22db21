"""Exact evaluation: sums over every example of a split, divided once at the end."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from gcvit_flax.config import Preprocessing
from gcvit_flax.data.batches import evaluation_batches
from gcvit_flax.data.sources import Source
from gcvit_flax.errors import UserError
from gcvit_flax.training.pmapped import shard
from gcvit_flax.training.preemption import InterruptibleBatches, StopRequested, StopSignals

Sums = dict[str, Any]


def run_evaluation(
    eval_step: Callable[..., dict[str, jax.Array]],
    trees: Mapping[str, Mapping[str, Any]],
    source: Source,
    preprocessing: Preprocessing,
    batch_size: int,
    devices: list[jax.Device],
    *,
    skip_corrupt: bool = False,
    workers: int = 0,
    signals: StopSignals | None = None,
) -> dict[str, dict[str, Any]]:
    """By the name of each of `trees`, parameters: mean loss, top-1 and top-5 accuracy (0..1) over all of `source`.

    They are exact whatever the batch size; count is the number of examples, without those that cannot be read if
    `skip_corrupt`. If `eval_step` counts it, also confusion, int (classes, classes). `workers` is that of
    `training_batches`. `signals` may stop it, and are asked after each batch. A bar shows the progress if stderr is a
    terminal.

    Raises:
      StopRequested: a signal has come.
      UserError: (a ValueError) an image that cannot be read; with `skip_corrupt`, if none can.
    """
    made = evaluation_batches(
        source,
        preprocessing,
        batch_size=batch_size,
        skip_corrupt=skip_corrupt,
        workers=workers,
        process=(jax.process_index(), jax.process_count()),
    )
    batches = InterruptibleBatches(made, signals) if signals else made
    total = -(-len(source) // batch_size)
    totals: dict[str, Sums] = {name: {} for name in trees}
    latest: dict[str, Sums] = {name: {} for name in trees}
    # disable=None: a bar on terminals alone.
    bar = tqdm(total=total, desc="evaluating", unit="batch", leave=False, disable=None, dynamic_ncols=True)
    with contextlib.closing(batches), bar:
        for batch in batches:
            batch = shard(batch, devices)
            earlier, latest = latest, {name: eval_step(params, batch) for name, params in trees.items()}
            totals = _add(totals, earlier)  # One batch late, so that devices are neither idle nor far behind.
            bar.update()
            if signals and signals.reached():
                raise StopRequested
    totals = _add(totals, latest)
    return {name: _means(sums, len(source)) for name, sums in totals.items()}


def _add(totals: dict[str, Sums], latest: dict[str, Sums]) -> dict[str, Sums]:
    """`totals` plus the sums of a batch, by the name of the tree, in 64 bits."""
    wide = {
        tree: {name: np.asarray(x, np.promote_types(x.dtype, np.int64)) for name, x in sums.items()}
        for tree, sums in latest.items()
    }
    return {
        tree: sums | {name: sums.get(name, 0) + x for name, x in wide[tree].items()} for tree, sums in totals.items()
    }


def _means(sums: Sums, examples: int) -> dict[str, Any]:
    count = int(sums.pop("count"))
    if not count:
        raise UserError(f"none of the {examples} images to evaluate on can be read: check the data")
    confusion = {"confusion": sums.pop("confusion")} if "confusion" in sums else {}
    return {**{name: float(value) / count for name, value in sums.items()}, "count": count, **confusion}
