"""Features with labels: what classifiers of features are fitted to and rated on."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class LabeledFeatures:
    """Features, float32 (n, C), and labels, int (n,)."""

    values: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, mask: np.ndarray) -> "LabeledFeatures":
        """Those that a bool (n,) marks."""
        return LabeledFeatures(self.values[mask], self.labels[mask])
