"""Batches of decoded uint8 images: Grain reads and decodes ahead while the device computes.

A training batch is a function of (seed, step) alone. Process p of P takes every P-th example of each global batch,
so the global batches are the same whatever the number of processes and devices.
"""

import itertools
from collections.abc import Iterator

import absl.flags
import grain
import numpy as np

from gcvit_flax.config import Preprocessing
from gcvit_flax.images import decode, evaluation_crop, random_resized_crop
from gcvit_flax.training.data import Source

Batch = dict[str, np.ndarray]
_PREFETCHED_BATCHES = 4


def training_batches(
    source: Source,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    crop_area: tuple[float, float],
    workers: int = 0,
    process: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """Endless batches from `start_step` on: image uint8 (b, H, W, 3), label (b,), index (b,).

    Every epoch is a fresh permutation, and batches run across its end, so each example is seen exactly once an
    epoch. `index` is the example's place in the global batch of `batch_size`; b is this process's share. `workers`
    processes decode, or read threads of this one when 0.
    """
    position, count = process

    def load(example, rng: np.random.Generator):
        image, label, name = example
        return {
            "image": random_resized_crop(decode(image, name), preprocessing.image_size, rng, crop_area),
            "label": np.int32(label),
        }

    examples = grain.MapDataset.source(source).seed(seed).shuffle().repeat(None).random_map(load)
    examples = examples[start_step * batch_size + position :: count]
    batches = examples.batch(batch_size // count).to_iter_dataset(_read_options(batch_size // count))
    if workers:
        absl.flags.FLAGS.mark_as_parsed()  # Grain's workers read absl's flags, which nobody has parsed here.
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    index = np.arange(position, batch_size, count, dtype=np.int32)
    return ({**batch, "index": index} for batch in batches)


def evaluation_batches(
    source: Source,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    process: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """One pass over `source`: image uint8 (b, H, W, 3), label (b,) and mask (b,), False where the batch is filled up.

    Every process gives the same number of batches, as collective operations need.
    """
    position, count = process
    local = batch_size // count

    def load(example):
        image, label, name = example
        return {"image": evaluation_crop(decode(image, name), preprocessing), "label": np.int32(label)}

    examples = grain.MapDataset.source(source)[position::count].map(load)
    total = -(-len(source) // batch_size)
    filler = {"image": np.zeros((0, *preprocessing.image_size, 3), np.uint8), "label": np.zeros(0, np.int32)}
    real = examples.batch(local, drop_remainder=False).to_iter_dataset(_read_options(local)) if len(examples) else ()
    for batch in itertools.islice(itertools.chain(real, itertools.repeat(filler)), total):
        missing = local - len(batch["label"])
        yield {
            "image": np.pad(batch["image"], ((0, missing), (0, 0), (0, 0), (0, 0))),
            "label": np.pad(batch["label"], (0, missing)),
            "mask": np.arange(local) < local - missing,
        }


def _read_options(batch_size: int) -> grain.ReadOptions:
    return grain.ReadOptions(prefetch_buffer_size=_PREFETCHED_BATCHES * batch_size)
