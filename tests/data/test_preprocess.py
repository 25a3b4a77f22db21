import io

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gcvit_flax.data.preprocess import normalize, preprocess
from gcvit_flax.errors import UserError
from gcvit_flax.model.gcvit import create_model


def test_preprocess_takes_paths_arrays_and_batches(tmp_path):
    model = create_model("gcvit_xxtiny", image_size=64)
    pixels = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    path = tmp_path / "x.png"
    Image.fromarray(pixels[0]).save(path)
    expected = (pixels / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(preprocess(pixels, model), expected, atol=1e-5)
    for one in (path, str(path), path.read_bytes(), pixels[0], Image.open(path)):
        np.testing.assert_allclose(preprocess(one, model), expected[:1], atol=1e-5)
    assert preprocess([path, pixels[1]], model).shape == (2, 64, 64, 3)
    assert normalize(pixels, model.preprocessing).dtype == np.float32


def test_preprocess_takes_files_buffers_and_arrays_of_jax(tmp_path):
    model = create_model("gcvit_xxtiny", image_size=64)
    pixels = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    path = tmp_path / "x.png"
    Image.fromarray(pixels[0]).save(path)
    expected, content = preprocess(pixels, model), path.read_bytes()
    for one in (bytearray(content), memoryview(content), io.BytesIO(content), jnp.asarray(pixels[0])):
        np.testing.assert_array_equal(preprocess(one, model), expected[:1])
    np.testing.assert_array_equal(preprocess(jnp.asarray(pixels), model), expected)
    np.testing.assert_array_equal(preprocess((image for image in [path, jnp.asarray(pixels[1])]), model), expected)
    with path.open("rb") as file:
        for one in (file, [file]):  # Read from its beginning each time, and left open.
            np.testing.assert_array_equal(preprocess(one, model), expected[:1])
        assert not file.closed
    gray = create_model("gcvit_xxtiny", image_size=64, in_channels=1)
    assert preprocess(jnp.asarray(pixels[0, ..., 0]), gray).shape == (1, 64, 64, 1)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "needs at least one image, got an empty sequence"),
        (7, "a binary file, a Pillow image or an array, got int: give one of these, or a sequence of them"),
        (None, "got NoneType"),
        ([["x.png"]], "got list"),
        (io.StringIO("roses are red"), 'is open in text mode: open it with mode "rb"'),
        (io.BytesIO(b"roses are red"), "image: not an image that Pillow can read"),
        (jnp.zeros((4, 4, 3)), r"expected a uint8 array .* got float32 \(4, 4, 3\)"),
        (np.zeros(3, np.uint8), r"expected a uint8 array .* got uint8 \(3,\)"),
        (np.zeros((1, 1, 4, 4, 3), np.uint8), r"expected a uint8 array .* got uint8 \(1, 4, 4, 3\)"),
    ],
)
def test_what_is_no_image_is_refused_in_a_sentence(images, message):
    with pytest.raises(UserError, match=message):
        preprocess(images, create_model("gcvit_xxtiny", image_size=64))
