import numpy as np

from gcvit_flax.data.datasets import open_data


def test_digits_are_whole_and_split_by_class():
    data = open_data("digits", 0.2)
    assert len(data.train) + len(data.validation) == 1797
    assert data.class_names == tuple("0123456789")
    shares = np.bincount(data.validation.labels) / (
        np.bincount(data.validation.labels) + np.bincount(data.train.labels)
    )
    np.testing.assert_allclose(shares, 0.2, atol=0.005)
    image, label, _ = data.train[0]
    assert image.shape == (8, 8) and image.dtype == np.uint8 and 0 <= label < 10
    assert np.max(data.train.images) == 255
