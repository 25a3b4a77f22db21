import warnings

import numpy as np
from PIL import Image

from gcvit_flax.visualize.overlay import overlay


def test_an_overlay_lies_where_the_network_looked():
    """A map that is high only at its lower right, over the center of a wide image."""
    picture = overlay(Image.new("RGB", (60, 20), (100, 100, 100)), np.array([[0, 0], [0, 1]]), (20, 0, 40, 20))
    assert picture.shape == (20, 60, 3) and picture.dtype == np.uint8
    dark, low, high = picture[19, 0], picture[0, 20], picture[19, 39]
    np.testing.assert_allclose(dark, 40, atol=1.5)
    np.testing.assert_allclose(low, 40 + 0.6 * np.array([68, 1, 84]), atol=1.5)  # The ends of viridis.
    np.testing.assert_allclose(high, 40 + 0.6 * np.array([253, 231, 37]), atol=1.5)
    assert (picture[:, :20] == dark).all() and (picture[:, 40:] == dark).all()


def test_a_map_of_zeros_and_a_tiny_image_are_drawn_without_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flat = overlay(Image.new("RGB", (8, 6)), np.zeros((3, 2)))
        assert (flat == flat[0, 0]).all()
        assert overlay(Image.new("RGB", (2, 2)), np.eye(2), (0, 0.9, 2, 1.1)).shape == (2, 2, 3)
