import dataclasses

import jax
import jax.numpy as jnp
import pytest

from gcvit_flax.config import REFERENCES, GCViTConfig
from gcvit_flax.model.gcvit import create_model
from gcvit_flax.variants import VARIANTS, resolve_config, variant_name

# Trainable parameters, as reported by the official release, timm and the Keras summary.
PARAMETER_COUNTS = {
    "gcvit_xxtiny": 11_995_428,
    "gcvit_xtiny": 19_981_294,
    "gcvit_tiny": 28_221_974,
    "gcvit_tiny2": 34_535_654,
    "gcvit_small": 51_092_173,
    "gcvit_small2": 68_615_197,
    "gcvit_base": 90_320_836,
    "gcvit_large": 202_075_570,
    "gcvit_large_384": 202_860_610,
    "gcvit_large_512": 203_795_362,
}


def test_every_variant_is_tested():
    assert PARAMETER_COUNTS.keys() == VARIANTS.keys()


@pytest.mark.parametrize("name", PARAMETER_COUNTS)
def test_parameter_count(name):
    model = create_model(name)
    images = jnp.zeros((1, *model.config.image_size, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == PARAMETER_COUNTS[name]


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_is_recognized_whatever_its_head(name):
    assert variant_name(resolve_config(name, num_classes=5, drop_path_rate=0.0, reference="keras_io")) == name
    assert variant_name(resolve_config(name, mlp_ratio=4.0)) is None


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_and_crop_stay_at_another_image_size(name):
    usual, other = create_model(name), create_model(name, image_size=(416, 448))
    nearest = "gcvit_large_384" if name.startswith("gcvit_large") else name
    assert variant_name(other.config) == nearest
    expected = create_model(nearest).preprocessing
    found = dataclasses.replace(other.preprocessing, image_size=expected.image_size)
    assert found == expected
    assert variant_name(usual.config) == name
    assert variant_name(create_model(name, window_size=(1, 1, 1, 1), image_size=32).config) != name


def test_large_windows_follow_the_image():
    assert VARIANTS["gcvit_large_512"].window_size == ((16, 16), (16, 16), (32, 32), (16, 16))
    assert resolve_config("gcvit_tiny", image_size=(384, 512)).window_size == ((12, 16), (12, 16), (24, 32), (12, 16))
    assert VARIANTS["gcvit_tiny"].query_stages == (3, 2, 0, 0)


def test_preprocessing_is_the_official_crop():
    assert create_model("gcvit_xtiny").preprocessing.crop_fraction == 0.875
    assert create_model("gcvit_large_384").preprocessing.crop_mode == "squash"
    assert create_model("gcvit_base").preprocessing.crop_fraction == 1.0


@pytest.mark.parametrize("reference", REFERENCES)
def test_reference_sets_both_fields(reference):
    config = resolve_config("gcvit_xxtiny", reference=reference)
    assert (config.relative_position_bias, config.query_pool_padding) == REFERENCES[reference]
    assert config.reference == reference


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (dict(variant="gcvit_nano"), "unknown variant 'gcvit_nano'.*gcvit_xxtiny"),
        (dict(depth=3), "unknown field depth.*depths"),
        (dict(reference="torch"), "reference must be one of 'official'"),
        (dict(reference="official", query_pool_padding="zero"), "reference='official' means query_pool_padding='-inf'"),
        (dict(image_size=200), "200x200.*192x192 or 224x224.*pad_to_windows"),
        (dict(image_size=(224, 230)), "224x230.*224x224 or 224x256"),
        (dict(num_heads=(3, 4, 8, 16)), "level 0: the width must be a multiple"),
        (dict(depths=(2, 2)), "depths needs one entry for each of the 4 levels"),
        (dict(image_size=224, window_size=(7, 7, 7, 5)), "level 3: the 7x7 map of a 224x224 image over the 5x5 window"),
        (dict(window_size=((7, 14), 7, 14, 7)), "level 0.*same power of two on both axes"),
        (dict(dropout_rate=1.0), "dropout_rate must be at least 0 and below 1"),
        (dict(dropout_rate="0.1"), "dropout_rate must be at least 0 and below 1"),
        (dict(embed_dim=64.0), "embed_dim must be an integer from 4 to 65536, got 64.0"),
        (dict(embed_dim=2**20), "embed_dim must be an integer from 4 to 65536, got 1048576"),
        (dict(num_classes=True), "num_classes must be an integer from 0"),
        (dict(depths=(2, 2, 0, 2)), "depths must be an integer from 1"),
        (dict(image_size=(0, 32)), "image_size must be an integer from 1"),
        (dict(image_size=224.0), "image_size must be an int or"),
        (dict(mlp_ratio=float("nan")), "mlp_ratio must be above 0"),
        (dict(layer_scale=float("inf")), "layer_scale must be a finite number or None"),
        (dict(qk_scale=10**400), "qk_scale must be a finite number or None"),
        (dict(qkv_bias=1), "qkv_bias must be True or False"),
    ],
)
def test_contradictions_are_value_errors(arguments, expected):
    with pytest.raises(ValueError, match=expected):
        resolve_config(**arguments)


def test_pad_to_windows_keeps_windows_and_query_stages():
    model = create_model("gcvit_tiny", image_size=(300, 401), pad_to_windows=True)
    assert model.config.window_size == VARIANTS["gcvit_tiny"].window_size
    assert model.config.query_stages == (3, 2, 0, 0)
    assert model.preprocessing.image_size == (300, 401)


def test_a_complete_config_is_unchanged():
    config = GCViTConfig(image_size=32, window_size=(4, 4, 2, 1), num_classes=7)
    assert create_model(config).config == config
    assert create_model(config, image_size=32).config.window_size == config.window_size
