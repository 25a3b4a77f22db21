"""Batches of decoded uint8 images: Grain reads and decodes ahead while the device computes.

A training batch is a function of (seed, step) alone. Process p of P takes the p-th contiguous block of each global
batch, so the global batches are the same whatever the number of processes and devices.
"""

import contextlib
import dataclasses
import functools
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import absl.flags
import grain
import numpy as np

from gcvit_flax.config import Preprocessing
from gcvit_flax.data.crops import evaluation_crop
from gcvit_flax.data.decode import UnreadableImage, decode
from gcvit_flax.data.random_crop import random_resized_crop
from gcvit_flax.data.sources import Source
from gcvit_flax.errors import UserError

logger = logging.getLogger("gcvit_flax")

Batch = dict[str, Any]
_PREFETCHED_BATCHES = 4
_READ_THREADS = 16
_SUBSTITUTES = 1000  # How many images are tried for one that cannot be read.


def training_batches(
    source: Source,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    crop_area: tuple[float, float],
    squash: bool = False,
    skip_corrupt: bool = False,
    workers: int = 0,
    process: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """Endless batches from `start_step` on: image uint8 (b, H, W, 3), label (b,), index (b,).

    Every epoch is a fresh permutation, and batches run across its end, so each example is seen exactly once an
    epoch. `index` is the example's place in the global batch of `batch_size`; b is this process's share. `squash`
    resizes whole images instead of cropping at random. `workers` processes decode, or read threads of this one when 0.
    With `skip_corrupt` a random readable image stands in for one that cannot be read, and batches have `skipped`, an
    int: how many of their images do.

    Raises:
      UserError: (a ValueError, from `next`) what cannot be read; with `skip_corrupt`, where nothing can.
    """
    local = batch_size // process[1]
    whole = dataclasses.replace(preprocessing, crop_mode="squash", crop_fraction=1.0)
    order = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat(None)

    def load(index: int, rng: np.random.Generator) -> dict[str, Any]:
        image, label, name = source[index]
        if squash:
            pixels = evaluation_crop(decode(image, name), whole)
        else:
            pixels = random_resized_crop(image, preprocessing.image_size, rng, crop_area, name)
        return {"image": pixels, "label": np.int32(label)}

    if skip_corrupt:
        load = functools.partial(_load_readable, load, len(source))

    def load_at(place: int) -> dict[str, Any]:
        place = start_step * batch_size + _global_place(place, batch_size, process)
        return load(order[place], np.random.default_rng((seed, place)))

    batches = _batches(load_at, sys.maxsize // batch_size * batch_size // process[1], local, workers)
    places = np.arange(process[0] * local, (process[0] + 1) * local, dtype=np.int32)
    for batch in batches:
        if skip_corrupt:
            batch["skipped"] = _report(batch.pop("error"))
        yield {**batch, "index": places}


def _global_place(place: int, batch_size: int, process: tuple[int, int]) -> int:
    """Where the `place`-th example that this process loads stands in the sequence of all processes' examples."""
    number, count = process
    step, place = divmod(place, batch_size // count)
    return step * batch_size + number * (batch_size // count) + place


def _batches(load: Callable[[int], dict[str, Any]], total: int, batch_size: int, workers: int = 0) -> grain.IterDataset:
    """Batches of load(0) ... load(total - 1), some of them always ready."""
    examples = grain.MapDataset.range(total).map(load)
    if not workers:  # Read threads share the work example by example.
        ahead = _PREFETCHED_BATCHES * batch_size
        return examples.to_iter_dataset(_read_options(ahead)).batch(batch_size)
    absl.flags.FLAGS.mark_as_parsed()  # Grain's workers read absl's flags, which nobody has parsed here.
    # Workers divide what they are given, so that they must be given whole batches.
    batches = examples.batch(batch_size).to_iter_dataset(_read_options(_PREFETCHED_BATCHES))
    return batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))


def _read_options(ahead: int) -> grain.ReadOptions:
    return grain.ReadOptions(num_threads=min(ahead, _READ_THREADS), prefetch_buffer_size=ahead)


def _load_readable(load: Callable, total: int, index: int, rng: np.random.Generator) -> dict[str, Any]:
    """What `load` gives for `index`, or else for a random other of `total`; `error` says why, "" for the first."""
    try:
        return {**load(index, rng), "error": np.str_()}
    except UnreadableImage as error:
        reason = str(error)
    for other in rng.choice(total, min(total, _SUBSTITUTES), replace=False):
        with contextlib.suppress(UnreadableImage):
            return {**load(int(other), rng), "error": np.str_(reason)}
    raise UserError(f"none of {min(total, _SUBSTITUTES)} images tried can be read: {reason}")


def evaluation_batches(
    source: Source,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    skip_corrupt: bool = False,
    process: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """One pass over `source`: image uint8 (b, H, W, 3), label (b,) and mask (b,), False where the batch is filled up.

    Every process gives the same number of batches, as collective operations need. With `skip_corrupt` images that
    cannot be read are masked too.

    Raises:
      UserError: (a ValueError, from `next`) what cannot be read, unless `skip_corrupt`.
    """
    blank = {"image": np.zeros((*preprocessing.image_size, 3), np.uint8), "label": np.int32(0), "mask": np.bool_(False)}

    def load(place: int) -> dict[str, Any]:
        index, reason = _global_place(place, batch_size, process), ""
        if index < len(source):
            try:
                image, label, name = source[index]
                pixels = evaluation_crop(decode(image, name), preprocessing)
                return {"image": pixels, "label": np.int32(label), "mask": np.bool_(True), "error": np.str_()}
            except UnreadableImage as error:
                if not skip_corrupt:
                    raise
                reason = str(error)
        return {**blank, "error": np.str_(reason)}

    local = batch_size // process[1]
    for batch in _batches(load, -(-len(source) // batch_size) * local, local):
        _report(batch.pop("error"))
        yield batch


def _report(errors: np.ndarray) -> int:
    """How many examples of a batch could not be read; logs each of `errors` (b,) that is not empty."""
    for error in errors[errors != ""]:
        _warn_once(f"skipped {error}")
    return int((errors != "").sum())


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning(message)
