import dataclasses

import jax
import numpy as np

from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.model.tree import flatten, parameter_shapes
from gcvit_flax.variants import VARIANTS


def test_shapes_are_those_of_the_network():
    """Traced whole, without the shortcut."""
    config = dataclasses.replace(VARIANTS["gcvit_large"], depths=(3, 4, 5, 2))
    images = jax.ShapeDtypeStruct((1, *config.image_size, 3), np.float32)
    expected = flatten(jax.eval_shape(GCViT(config).init, jax.random.key(0), images)["params"])
    assert parameter_shapes(config) == expected
