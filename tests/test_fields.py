"""Numbers of all kinds in configurations, and as config.json has them."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from gcvit_flax.config import GCViTConfig, Preprocessing
from gcvit_flax.errors import UserError
from gcvit_flax.model.gcvit import create_model
from gcvit_flax.weights.folder_config import folder_config_text, make_folder_config


@pytest.mark.parametrize(
    "size", [np.int64(64), (np.int32(64), np.uint8(64)), np.array([64, 64]), jnp.int32(64), [64, 64]]
)
def test_sizes_are_ints_of_any_kind(size):
    assert GCViTConfig(image_size=size) == GCViTConfig(image_size=64)
    assert Preprocessing(size).image_size == (64, 64)
    model = create_model("gcvit_xxtiny", image_size=size)
    assert (model.config.image_size, model.preprocessing.image_size) == ((64, 64), (64, 64))


def test_sizes_are_positive():
    for make in (GCViTConfig, Preprocessing):
        with pytest.raises(UserError, match=r"image_size must be an integer from 1 to 65536, got \(0, 64\)"):
            make(image_size=(0, 64))


@pytest.mark.parametrize("size", [(224.9, 224.9), 224.9, 224.0, "224", (64,), (64, 64, 3), (None, 64), np.float32(64)])
def test_other_sizes_are_refused_and_none_is_rounded(size):
    for make in (GCViTConfig, Preprocessing):
        with pytest.raises(UserError, match=r"image_size must be an int or \(height, width\), two ints, got"):
            make(image_size=size)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_classes": 5.5}, "num_classes must be an integer from 0 to 65536, got 5.5"),
        ({"depths": (1, 1, 1, 1.5)}, "depths must be an integer from 1 to 65536, got "),
        ({"window_size": 7}, "window_size needs one entry for each of the 4 levels, got 7"),
    ],
)
def test_other_fields_are_ints_too(fields, message):
    with pytest.raises(UserError, match=message):
        GCViTConfig(**fields)


def test_a_model_of_numpys_numbers_has_the_same_card():
    """JSON has no numbers of NumPy's."""
    numbers = {"num_classes": 5, "embed_dim": 32, "in_channels": 1, "mlp_ratio": 3.0, "pad_to_windows": True}
    cards = [
        folder_config_text(
            make_folder_config(
                create_model("gcvit_xxtiny", depths=depths, num_heads=depths, **fields).clone(preprocessing=shown),
                class_names=None,
                provenance=None,
                weights_licence=None,
                parameter_count=1,
                checkpoint="x",
            )
        )
        for fields, depths, shown in (
            (numbers, (1, 2, 2, 4), Preprocessing((64, 64), 0.5, mean=(0.25,), std=(1.0,))),
            (
                {name: np.asarray(value)[()] for name, value in numbers.items()},
                np.array([1, 2, 2, 4]),
                Preprocessing(np.int64(64), np.float32(0.5), mean=np.float32([0.25]), std=jnp.ones(1)),
            ),
        )
    ]
    assert cards[0] == cards[1] and json.loads(cards[1])["config"]["num_classes"] == 5
