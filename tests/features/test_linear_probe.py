import numpy as np
import pytest
import scipy.optimize
import scipy.special

from gcvit_flax.features.labeled import LabeledFeatures
from gcvit_flax.features.linear_probe import fit_logistic, linear_probe_top1

STRENGTHS = (1.0, 0.01, 0.0001)


def drawn(seed: int, count: int) -> LabeledFeatures:
    """Three classes that overlap; the features' scales differ a hundredfold, and one of them is constant."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    values = (rng.normal(size=(count, 6)) + 1.5 * np.eye(6)[labels]) * [1, 100, 1, 1, 1, 0] + 5
    return LabeledFeatures(values.astype(np.float32), labels.astype(np.int32))


def reference(values: np.ndarray, labels: np.ndarray, l2: float) -> tuple[np.ndarray, np.ndarray]:
    """Kernel (C, 3) and bias (3,) by SciPy, in float64."""
    channels = values.shape[1]

    def objective(flat: np.ndarray) -> float:
        kernel, bias = flat[:-3].reshape(channels, 3), flat[-3:]
        logits = values @ kernel + bias
        losses = scipy.special.logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels]
        return losses.mean() + l2 / 2 * (kernel**2).sum()

    found = scipy.optimize.minimize(objective, np.zeros(3 * channels + 3), method="BFGS", options={"gtol": 1e-7})
    return found.x[:-3].reshape(channels, 3), found.x[-3:]


@pytest.fixture(scope="module")
def train() -> LabeledFeatures:
    return drawn(0, 90)


@pytest.fixture(scope="module")
def standardized(train) -> np.ndarray:
    deviation = train.values.std(0)
    return (train.values - train.values.mean(0)) / np.where(deviation > 0, deviation, 1)


def test_fits_are_minima(train, standardized):
    for l2, weights in zip(STRENGTHS, fit_logistic(standardized, train.labels, STRENGTHS, 3), strict=True):
        kernel, bias = reference(standardized.astype(np.float64), train.labels, l2)
        np.testing.assert_allclose(weights["kernel"], kernel, atol=0.002 * np.abs(kernel).max())
        centered = weights["bias"] - weights["bias"].mean()  # A constant on all logits changes nothing.
        np.testing.assert_allclose(centered, bias - bias.mean(), atol=0.002)


def test_accuracies_are_of_standardized_features(train, standardized):
    queries = drawn(1, 200)
    values = (queries.values - train.values.mean(0)) / np.where(train.values.std(0) > 0, train.values.std(0), 1)
    expected = {}
    for l2 in STRENGTHS:
        kernel, bias = reference(standardized.astype(np.float64), train.labels, l2)
        expected[l2] = ((values @ kernel + bias).argmax(1) == queries.labels).mean()
    assert linear_probe_top1(train, queries, STRENGTHS, 3) == pytest.approx(expected, abs=0.011)
    assert min(expected.values()) > 0.5 and len({*expected.values()}) > 1
