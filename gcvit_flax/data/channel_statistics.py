"""The mean and standard deviation of each channel of a data set."""

import dataclasses

import numpy as np

from gcvit_flax.config import Preprocessing
from gcvit_flax.data.crops import read_crop
from gcvit_flax.data.decode import UnreadableImage
from gcvit_flax.data.sources import Source
from gcvit_flax.errors import UserError

_IMAGES = 512  # Enough for two digits.
_SEED = 0  # The measured numbers must not change with the run's seed.


def measure_channels(source: Source, preprocessing: Preprocessing) -> Preprocessing:
    """`preprocessing` with the mean and deviation of each channel over crops of up to 512 random images of `source`.

    A channel that is constant gets the deviation 1; images that cannot be read are left out.

    Raises:
      UserError: (a ValueError) none can be read, or they have another number of channels.
    """
    count, sums, reason = 0, np.zeros((2, preprocessing.channels)), ""
    for index in np.random.default_rng(_SEED).permutation(len(source))[:_IMAGES]:
        image, _, name = source[int(index)]
        try:
            pixels = read_crop(image, preprocessing, name).astype(np.float64) / 255
        except UnreadableImage as error:
            reason = str(error)
            continue
        count += pixels.shape[0] * pixels.shape[1]
        sums += [pixels.sum((0, 1)), (pixels**2).sum((0, 1))]
    if not count:
        raise UserError(f"no training image can be read to measure its channels: {reason}")
    mean, square = sums / count
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    std = np.where(deviation > 1e-6 * np.abs(mean), deviation, 1.0)
    return dataclasses.replace(preprocessing, mean=mean.tolist(), std=std.tolist())
