"""Batches of decoded uint8 images: Grain reads and decodes ahead while the device computes.

A training batch is a function of (seed, step) alone. Process p of P takes the p-th contiguous block of each global
batch, so the global batches are the same whatever the number of processes and devices.
"""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import absl.flags
import grain
import numpy as np

from gcvit_flax.config import Preprocessing
from gcvit_flax.errors import UserError
from gcvit_flax.images import UnreadableImage, decode, evaluation_crop, random_resized_crop
from gcvit_flax.training.data import Source

logger = logging.getLogger("gcvit_flax")

Batch = dict[str, Any]
_PREFETCHED_BATCHES = 4
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
    position, count = process
    local = batch_size // count
    whole = dataclasses.replace(preprocessing, crop_mode="squash", crop_fraction=1.0)

    def load(index: int, rng: np.random.Generator):
        image, label, name = source[index]
        if squash:
            pixels = evaluation_crop(decode(image, name), whole)
        else:
            pixels = random_resized_crop(image, preprocessing.image_size, rng, crop_area, name)
        return {"image": pixels, "label": np.int32(label)}

    if skip_corrupt:
        load = functools.partial(_load_readable, load, len(source))
    indices = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat(None)
    batches = indices.random_map(load).batch(local)[start_step * count + position :: count]
    batches = batches.to_iter_dataset(_read_options(local))
    if workers:
        absl.flags.FLAGS.mark_as_parsed()  # Grain's workers read absl's flags, which nobody has parsed here.
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    places = np.arange(position * local, (position + 1) * local, dtype=np.int32)
    for batch in batches:
        if skip_corrupt:
            batch["skipped"] = _report(batch.pop("error"))
        yield {**batch, "index": places}


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
    position, count = process
    local = batch_size // count
    blank = {"image": np.zeros((*preprocessing.image_size, 3), np.uint8), "label": np.int32(0), "mask": np.bool_(False)}

    def load(index: int):
        reason = ""
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

    total = -(-len(source) // batch_size) * batch_size
    batches = grain.MapDataset.range(total).map(load).batch(local)[position::count]
    for batch in batches.to_iter_dataset(_read_options(local)):
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


def _read_options(batch_size: int) -> grain.ReadOptions:
    return grain.ReadOptions(prefetch_buffer_size=_PREFETCHED_BATCHES * batch_size)
