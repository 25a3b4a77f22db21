import contextlib
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcvit_flax.config import GCViTConfig
from gcvit_flax.errors import UserError
from gcvit_flax.model.tree import check_same_names_and_shapes, parameter_shapes
from gcvit_flax.variants import VARIANTS
from gcvit_flax.weights.infer import _mlp_ratio, infer_config


def shapes_of(config):
    return {name: leaf.shape for name, leaf in parameter_shapes(config).items()}


def infer(config, image_size=None, stored_size=None):
    return infer_config(shapes_of(config), image_size=image_size, stored_size=stored_size)


def small(**fields):
    fields = {"embed_dim": 8, "depths": (1,) * 4, "num_heads": (1,) * 4, "num_classes": 2, **fields}
    return GCViTConfig(**fields)


@pytest.mark.parametrize("name", ["gcvit_xxtiny", "gcvit_large_512"])
def test_variants(name):
    config = infer(VARIANTS[name])
    assert config.drop_path_rate == 0  # Weights do not show it.
    for field in ("image_size", "window_size", "embed_dim", "depths", "num_heads", "mlp_ratio", "layer_scale"):
        assert getattr(config, field) == getattr(VARIANTS[name], field)


def test_one_query_stage_follows_from_the_other_levels():
    config = small(image_size=32, window_size=(4, 4, 2, 1))
    assert config.query_stages == (1, 0, 0, 0)
    assert infer(config) == config


def test_an_open_image_size_is_asked_for():
    """A single module pools once or not at all; here, the same at every level."""
    once = small(image_size=64, window_size=(8, 4, 2, 1))
    never = small(image_size=32, window_size=(8, 4, 2, 1))
    assert once.query_stages == (1, 1, 1, 1) and never.query_stages == (0, 0, 0, 0)
    with pytest.raises(UserError, match="--image-size 32 or --image-size 64"):
        infer(once)
    for config in (once, never):
        assert infer(config, image_size=config.image_size) == config
        assert infer(config, stored_size=config.image_size) == config


def test_a_stored_size_that_does_not_fit_is_not_believed():
    config = small(image_size=64, window_size=(2, 2, 4, 2))
    assert infer(config, stored_size=(224, 224)) == config


def test_windows_that_are_not_square_are_not_guessed():
    with pytest.raises(UserError, match="square window"):
        infer(small(image_size=(32, 64), window_size=None))


@settings(max_examples=300, deadline=None)
@given(ratio=st.floats(0.3, 4), dim=st.integers(4, 200))
def test_any_mlp_ratio_gives_the_same_widths(ratio, dim):
    dims = [dim * 2**level for level in range(4)]
    shapes = {f"levels_{i}/blocks_0/mlp/fc1/kernel": (d, int(d * ratio)) for i, d in enumerate(dims)}
    inferred = _mlp_ratio(shapes, dims[0], dims[-1])
    assert [int(d * inferred) for d in dims] == [int(d * ratio) for d in dims]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_shapes_are_those_of_a_network_or_refused(data):
    shapes = shapes_of(small(image_size=32))
    names = data.draw(st.lists(st.sampled_from(sorted(shapes)), min_size=1, max_size=8))
    sides = st.one_of(st.integers(0, 4), st.just(2**40))
    changed = {name: tuple(data.draw(st.lists(sides, max_size=5))) for name in names}
    with contextlib.suppress(UserError):
        infer_config(shapes | changed, image_size=None, stored_size=None)


@pytest.mark.parametrize(
    ("pattern", "shape"),
    [
        ("levels_3/.*(norm./scale|attn/proj/kernel)", (0,)),
        ("levels_0/q_global_gen/.*", None),
        (".*_bias_table", (0, 0)),
        ("head/kernel", ()),
    ],
)
def test_forged_shapes_are_refused(pattern, shape):
    """What every tensor of a kind agrees on is believed at first."""
    shapes = shapes_of(small(image_size=32))
    for name in [name for name in shapes if re.fullmatch(pattern, name)]:
        if shape is None:  # As many poolings as a name can say.
            shapes[name.replace("to_q_global_0", "to_q_global_9999")] = shapes[name]
        else:
            shapes[name] = shape
    with pytest.raises(UserError):
        config = infer_config(shapes, image_size=None, stored_size=None)
        check_same_names_and_shapes(
            {name: np.broadcast_to(0, shape) for name, shape in shapes.items()},
            parameter_shapes(config),
            "refused",
            "in the end",
        )
