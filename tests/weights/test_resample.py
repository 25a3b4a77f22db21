import numpy as np
import pytest

from gcvit_flax.weights.resample import resample_table


def keys_cubic(x, a=-0.5):
    """Keys' cubic convolution kernel, from its definition."""
    x = abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def resize_matrix(size, new_size):
    """Weights (new_size, size) at half-pixel centers; rows that the edge truncates are rescaled to sum to 1."""
    centers = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    weights = np.array([[keys_cubic(center - place) for place in range(size)] for center in centers])
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(("window", "new_window"), [((4, 4), (7, 5)), ((3, 5), (3, 2)), ((7, 7), (12, 12))])
def test_each_head_is_resized_by_keys_cubic(window, new_window):
    heads = 3
    rows, columns = (2 * side - 1 for side in window)
    new_rows, new_columns = (2 * side - 1 for side in new_window)
    table = np.random.default_rng(0).normal(size=(rows * columns, heads)).astype(np.float32)
    result = resample_table(table, window, new_window)
    vertical, horizontal = resize_matrix(rows, new_rows), resize_matrix(columns, new_columns)
    for head in range(heads):
        expected = vertical @ table[:, head].reshape(rows, columns) @ horizontal.T
        # The kernel is sampled at float32 positions up to 23, which are good to 1e-6.
        np.testing.assert_allclose(result[:, head].reshape(new_rows, new_columns), expected, atol=5e-6)


def test_windows_of_the_same_size_change_nothing():
    table = np.ones((49, 2), np.float32)
    assert resample_table(table, (4, 4), (4, 4)) is table
