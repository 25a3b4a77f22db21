import numpy as np

from gcvit_flax.data.datasets import open_data


def test_digits_are_whole_and_split_by_class():
    data = open_data("digits", 0.2)
    assert len(data.train) + len(data.validation) == 1797
    assert data.class_names == tuple("0123456789")
    images, labels = zip(*(data.train[index][:2] for index in range(len(data.train))), strict=True)
    held_out = np.bincount([data.validation[index][1] for index in range(len(data.validation))])
    np.testing.assert_allclose(held_out / (held_out + np.bincount(labels)), 0.2, atol=0.005)
    assert np.shape(images[0]) == (8, 8) and images[0].dtype == np.uint8
    assert np.max(images) == 255
