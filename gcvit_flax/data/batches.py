"""Batches of decoded images: Grain reads and decodes ahead while the devices compute.

A training batch is a function of (seed, step) alone. Process p of P takes the p-th contiguous block of each global
batch, so the global batches are the same for any number of processes and devices.
"""

import contextlib
import dataclasses
import functools
import logging
import math
import sys
from collections.abc import Callable, Generator
from typing import Any

import absl.flags
import grain
import numpy as np

from gcvit_flax.config import Preprocessing
from gcvit_flax.data.bands import pixel_type
from gcvit_flax.data.crops import read_crop
from gcvit_flax.data.decode import UnreadableImage
from gcvit_flax.data.positions import global_position, repeated_position
from gcvit_flax.data.random_crop import Interpolation, random_resized_crop
from gcvit_flax.data.sources import Source
from gcvit_flax.data.workers import end_with_parent, stop_signals_blocked, transport_options
from gcvit_flax.errors import UserError

logger = logging.getLogger("gcvit_flax")

Batch = dict[str, Any]
Example = dict[str, Any]
_PREFETCHED_BATCHES = 4
_READ_THREADS = 16
_MAX_SUBSTITUTES = 1000  # Images that are tried in place of one that cannot be read.


def training_batches(
    source: Source,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    crop_area: tuple[float, float],
    squash: bool = False,
    interpolation: Interpolation = "bicubic",
    repeats: int = 1,
    skip_corrupt: bool = False,
    workers: int = 0,
    process: tuple[int, int] = (0, 1),
) -> Generator[Batch, None, None]:
    """Endless batches from `start_step` on: image (b, H, W, channels), label (b,), index (b,).

    Every epoch is a new permutation and batches may span two epochs, so each example is seen exactly once per epoch.
    With `repeats` each is seen that often in succession (repeated augmentation, Hoffer et al., 2020), and a permutation
    lasts for as many epochs.

    `index` is the position in the global batch of `batch_size`; b is the share of process (number, count) `process`.
    `squash` resizes whole images instead of cropping them at random. Images are decoded by `workers` processes, or by
    threads if that is 0; closing the generator ends them. With `skip_corrupt` a random readable image replaces one that
    cannot be read, and `skipped`, an int, counts them per batch.

    Raises:
      UserError: (a ValueError, from `next`) an image that cannot be read; with `skip_corrupt`, only if none can.
    """
    local, channels = batch_size // process[1], preprocessing.channels
    whole = dataclasses.replace(preprocessing, crop_mode="squash", crop_fraction=1.0)
    order = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat(None)

    def load(index: int, rng: np.random.Generator) -> Example:
        image, label, name = source[index]
        if squash:
            pixels = read_crop(image, whole, name)
        else:
            size = preprocessing.image_size
            pixels = random_resized_crop(image, size, rng, crop_area, name, channels, interpolation)
        return {"image": pixels, "label": np.int32(label)}

    if skip_corrupt:
        load = functools.partial(_load_readable, load, len(source))

    def load_at(position: int) -> Example:
        position = start_step * batch_size + global_position(position, batch_size, process)
        return load(order[repeated_position(position, repeats)], np.random.default_rng((seed, position)))

    total = sys.maxsize // batch_size * batch_size // process[1]
    index = np.arange(process[0] * local, (process[0] + 1) * local, dtype=np.int32)
    with contextlib.closing(_batches(load_at, total, local, workers, _batch_bytes(local, preprocessing))) as batches:
        for batch in batches:
            if skip_corrupt:
                batch["skipped"] = _log_unreadable(batch.pop("error"))
            yield {**batch, "index": index}


def _batch_bytes(batch_size: int, preprocessing: Preprocessing) -> int:
    channels = preprocessing.channels
    return batch_size * math.prod(preprocessing.image_size) * channels * pixel_type(channels).itemsize


def _batches(
    load: Callable[[int], Example], total: int, batch_size: int, workers: int, batch_bytes: int
) -> Generator[Batch, None, None]:
    """Batches of load(0) ... load(total - 1), a few of them loaded ahead; closing it ends threads and workers."""
    examples = grain.MapDataset.range(total).map(load)
    if not workers:  # Threads share the work example by example.
        ahead = _PREFETCHED_BATCHES * batch_size
        options = grain.ReadOptions(num_threads=min(ahead, _READ_THREADS), prefetch_buffer_size=ahead)
        batches = examples.to_iter_dataset(options).batch(batch_size)
    else:
        absl.flags.FLAGS.mark_as_parsed()  # Grain's workers read absl's flags, which nobody has parsed here.
        # Grain deals out elements to the workers, so the elements must be whole batches.
        # One thread each: more would wait for one another in Python, which costs a seventh of the processor's time.
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_PREFETCHED_BATCHES)
        batches = examples.batch(batch_size).to_iter_dataset(options)
        batches = grain.experimental.WithOptionsIterDataset(batches, transport_options(workers, batch_bytes))
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers), end_with_parent)
    with contextlib.closing(iter(batches)) as iterator:
        with stop_signals_blocked() if workers else contextlib.nullcontext():  # The first batch starts the workers.
            first = next(iterator, None)
        if first is not None:
            yield first
        yield from iterator


def _load_readable(
    load: Callable[[int, np.random.Generator], Example], total: int, index: int, rng: np.random.Generator
) -> Example:
    """The example `load` returns for `index`, or a random readable one of `total` with the reason in `error`."""
    try:
        return {**load(index, rng), "error": np.str_()}
    except UnreadableImage as error:
        reason = str(error)
    for substitute in rng.choice(total, min(total, _MAX_SUBSTITUTES), replace=False):
        with contextlib.suppress(UnreadableImage):
            return {**load(int(substitute), rng), "error": np.str_(reason)}
    raise UserError(f"none of {min(total, _MAX_SUBSTITUTES)} images tried can be read: {reason}")


def evaluation_batches(
    source: Source,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    skip_corrupt: bool = False,
    workers: int = 0,
    process: tuple[int, int] = (0, 1),
) -> Generator[Batch, None, None]:
    """One pass over `source`: image (b, H, W, channels), label (b,) and mask (b,), False for padding.

    Every process yields the same number of batches, as collective operations need. With `skip_corrupt` images that
    cannot be read are masked too. `workers` is that of `training_batches`.

    Raises:
      UserError: (a ValueError, from `next`) an image that cannot be read, unless `skip_corrupt`.
    """
    channels = preprocessing.channels
    no_image = np.zeros((*preprocessing.image_size, channels), pixel_type(channels))
    blank = {"image": no_image, "label": np.int32(0), "mask": np.bool_(False)}

    def load(position: int) -> Example:
        index, reason = global_position(position, batch_size, process), ""
        if index < len(source):
            try:
                image, label, name = source[index]
                pixels = read_crop(image, preprocessing, name)
                return {"image": pixels, "label": np.int32(label), "mask": np.bool_(True), "error": np.str_()}
            except UnreadableImage as error:
                if not skip_corrupt:
                    raise
                reason = str(error)
        return {**blank, "error": np.str_(reason)}

    local = batch_size // process[1]
    total = -(-len(source) // batch_size) * local
    with contextlib.closing(_batches(load, total, local, workers, _batch_bytes(local, preprocessing))) as batches:
        for batch in batches:
            _log_unreadable(batch.pop("error"))
            yield batch


def _log_unreadable(errors: np.ndarray) -> int:
    """Logs each of `errors` (b,) that is not empty, and returns their number."""
    for error in errors[errors != ""]:
        _warn_once(f"skipped {error}")
    return int((errors != "").sum())


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning(message)
