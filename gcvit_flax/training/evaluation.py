"""Exact evaluation: sums over every example of a split, divided once at the end."""

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


def run_evaluation(
    eval_step: Callable[..., dict[str, jax.Array]],
    params: Mapping[str, Any],
    source: Source,
    preprocessing: Preprocessing,
    batch_size: int,
    devices: list[jax.Device],
    skip_corrupt: bool = False,
) -> dict[str, Any]:
    """Mean loss, top-1 and top-5 accuracy (0..1) over all of `source`, and their count, whatever the batch size.

    If `eval_step` counts it, also confusion, int (classes, classes). With `skip_corrupt`, images that cannot be read
    are not counted. A bar shows the progress if stderr is a terminal.

    Raises:
      UserError: (a ValueError) an image that cannot be read; with `skip_corrupt`, if none can.
    """
    process = (jax.process_index(), jax.process_count())
    batches = evaluation_batches(
        source, preprocessing, batch_size=batch_size, skip_corrupt=skip_corrupt, process=process
    )
    total = -(-len(source) // batch_size)
    totals: dict[str, Any] = {}
    latest: dict[str, jax.Array] = {}
    # disable=None: a bar on terminals alone.
    for batch in tqdm(batches, "evaluating", total, unit="batch", leave=False, disable=None, dynamic_ncols=True):
        earlier, latest = latest, eval_step(params, shard(batch, devices))
        totals = _add(totals, earlier)  # One batch late, so that devices are neither idle nor far behind.
    totals = _add(totals, latest)
    count = int(totals.pop("count"))
    if not count:
        raise UserError(f"none of the {len(source)} images to evaluate on can be read: check the data")
    confusion = {"confusion": totals.pop("confusion")} if "confusion" in totals else {}
    return {**{name: float(value) / count for name, value in totals.items()}, "count": count, **confusion}


def _add(totals: dict[str, Any], sums: dict[str, jax.Array]) -> dict[str, Any]:
    """`totals` plus the sums of a batch, in 64 bits."""
    wide = {name: np.asarray(x, np.promote_types(x.dtype, np.int64)) for name, x in sums.items()}
    return totals | {name: totals.get(name, 0) + x for name, x in wide.items()}
