import jax
import numpy as np
import pytest
from small import TINY

import gcvit_flax
from gcvit_flax.data.datasets import open_data
from gcvit_flax.features.extract import extract_features


@pytest.mark.parametrize("workers", [0, 1])
def test_features_are_the_models_in_the_order_of_the_data(photos, workers):
    """24 and 9 images in batches of four on two devices: the last batch is padded."""
    model = gcvit_flax.create_model(TINY)
    rng = np.random.default_rng(0)
    params = gcvit_flax.init_params(model, jax.random.key(0))
    variables = {"params": jax.tree.map(lambda x: x + rng.normal(0, 0.3, x.shape).astype(x.dtype), params)}
    data = open_data(f"folder:{photos}")
    sources = {"train": data.train, "val": data.validation}
    found = extract_features(model, variables, sources, 4, workers=workers)
    embed = jax.jit(lambda images: model.apply(variables, images, method="embed"))
    for part, features in found.items():
        paths = sorted(photos.glob(f"{part}/*/*.jpg"))
        expected = np.asarray(embed(gcvit_flax.preprocess(paths, model)))
        assert len(features) == len(paths) and features.values.dtype == np.float32
        np.testing.assert_allclose(features.values, expected, atol=1e-5 * np.abs(expected).max())
        assert [data.class_names[label] for label in features.labels] == [path.parent.name for path in paths]
        assert np.abs(expected[0] - expected[1]).max() > 1e-2 * np.abs(expected).max(), "this sees no wrong order"
