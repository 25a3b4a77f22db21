import numpy as np
from PIL import Image

from gcvit_flax.data.preprocess import normalize, preprocess
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
