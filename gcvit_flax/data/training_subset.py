"""Training on fewer images: a share of each class, or a few of each."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from gcvit_flax.data.shared_array import SharedArray
from gcvit_flax.data.sources import Source, Subset, split_by_class
from gcvit_flax.errors import UserError


@dataclasses.dataclass(frozen=True)
class TrainingSubset:
    """The images that are trained on: the share `fraction` of each class, or `shots` of each; all of them if neither.

    The smaller of two subsets with the same `seed` is part of the larger.
    """

    fraction: float | None = None
    shots: int | None = None
    seed: int = 0

    def of(self, source: Source, class_names: Sequence[str]) -> Source:
        """The subset of `source`.

        Raises:
          UserError: (a ValueError) a class of which nothing would be left, or that has too few images.
        """
        if self.fraction is None and self.shots is None:
            return source
        rng = np.random.default_rng(self.seed)
        chosen = [
            rng.permutation(members)[: self._count(len(members), name)]
            for members, name in zip(split_by_class(source.labels, len(class_names)), class_names, strict=True)
        ]
        return Subset(source, SharedArray(np.sort(np.concatenate(chosen))))

    def _count(self, images: int, class_name: str) -> int:
        """How many of the images of a class are chosen."""
        if self.fraction is not None:
            count = round(self.fraction * images)
            if not count:
                raise UserError(
                    f"--train-fraction {self.fraction:g} leaves none of the training images of class {class_name!r}, "
                    f"which has {images}: raise it, or give --shots"
                )
            return count
        assert self.shots is not None
        if self.shots > images:
            raise UserError(
                f"--shots {self.shots} is more than the training images of class {class_name!r}, which has {images}: "
                "lower it"
            )
        return self.shots
