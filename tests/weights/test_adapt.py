import logging

import numpy as np
import pytest

from gcvit_flax.errors import UserError
from gcvit_flax.model.gcvit import create_model
from gcvit_flax.model.tree import flatten
from gcvit_flax.weights.model_folder import load_model, save_model


@pytest.fixture
def saved(tmp_path, micro):
    save_model(tmp_path / "m", *micro)
    return tmp_path / "m"


def test_a_new_head(saved, caplog):
    with caplog.at_level(logging.INFO, "gcvit_flax"):
        model, variables = load_model(saved, num_classes=3, seed=1)
    assert "the head is new, 3 classes" in caplog.text
    head = variables["params"]["head"]
    assert model.config.num_classes == 3 and head["kernel"].shape == (64, 3)
    assert not head["bias"].any()
    assert abs(head["kernel"].std() / 0.02 - 1) < 0.3
    other = load_model(saved, num_classes=3, seed=2)[1]["params"]["head"]["kernel"]
    assert not np.array_equal(head["kernel"], other)
    assert "head" not in load_model(saved, num_classes=0)[1]["params"]


def test_nothing_is_logged_where_nothing_changes(saved, caplog, micro, assert_same_tree):
    with caplog.at_level(logging.INFO, "gcvit_flax"):
        model, variables = load_model(saved, image_size=128, num_classes=10, reference="official")
    assert model == micro[0] and "becomes" not in caplog.text
    assert_same_tree(variables, micro[1])


def test_another_reference(saved, caplog, micro, assert_same_tree):
    with caplog.at_level(logging.INFO, "gcvit_flax"):
        model, variables = load_model(saved, reference="keras_io")
    assert model.config.reference == "keras_io"
    assert "relative_position_bias per_head becomes flattened" in caplog.text
    assert_same_tree(variables, micro[1])


def test_another_size_resamples_the_tables_and_nothing_else(saved, micro, caplog):
    with caplog.at_level(logging.INFO, "gcvit_flax"):
        model, variables = load_model(saved, image_size=(64, 96))
    assert model.config.window_size == ((2, 3), (2, 3), (4, 6), (2, 3))
    assert model.preprocessing.image_size == (64, 96)
    assert "resampled" in caplog.text
    before, after = flatten(micro[1]["params"]), flatten(variables["params"])
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith("relative_position_bias_table")}
    assert after["levels_0/blocks_0/attn/relative_position_bias_table"].shape == (3 * 5, 1)


def test_a_size_with_other_query_stages_is_refused(tmp_path, micro, make_variables):
    model = create_model(micro[0].config, image_size=64, window_size=(4, 4, 4, 2))
    save_model(tmp_path / "m", model, make_variables(model.config))
    with pytest.raises(UserError, match=r"needs \(3, 2, 0, 0\) poolings .* these weights have \(2, 1, 0, 0\)"):
        load_model(tmp_path / "m", image_size=128)


def test_padding_takes_another_size_with_the_weights_untouched(saved, micro, assert_same_tree):
    model, variables = load_model(saved, image_size=(100, 90), pad_to_windows=True)
    assert model.config.window_size == micro[0].config.window_size
    assert model.preprocessing.image_size == (100, 90)
    assert_same_tree(variables, micro[1])


STEM = "patch_embed/proj/kernel"


def test_one_channel_gets_the_sum_of_the_stem(saved, micro, logits, caplog):
    """So that gray images give the logits that they gave in three equal channels."""
    with caplog.at_level(logging.INFO, "gcvit_flax"):
        model, variables = load_model(saved, in_channels=1)
    assert "in_channels 3 becomes 1" in caplog.text and "summed" in caplog.text
    gray = np.random.default_rng(0).normal(size=(1, 128, 128, 1)).astype(np.float32)
    expected = logits(*micro, np.repeat(gray, 3, -1))
    np.testing.assert_allclose(logits(model, variables, gray), expected, atol=1e-5 * np.abs(expected).max())
    assert model.preprocessing.mean == pytest.approx((0.449,)) and model.preprocessing.std == pytest.approx((0.226,))


def test_more_channels_repeat_the_stem_and_are_rescaled(saved, micro):
    before = flatten(micro[1]["params"])
    model, variables = load_model(saved, in_channels=5)
    after = flatten(variables["params"])
    assert model.config.in_channels == 5 and after[STEM].shape == (3, 3, 5, 8)
    np.testing.assert_allclose(after[STEM], 3 / 5 * before[STEM][:, :, [0, 1, 2, 0, 1]], rtol=1e-6)
    assert model.preprocessing.mean == (0.485, 0.456, 0.406, 0.485, 0.456)
    assert {name for name in before if not np.array_equal(before[name], after[name])} == {STEM}
    save_model(saved.parent / "five", model, variables)
    again, _ = load_model(saved.parent / "five")
    assert again == model


def test_means_for_other_channels_are_refused(saved, tmp_path):
    model, variables = load_model(saved, in_channels=5)
    model = model.clone(preprocessing=create_model().preprocessing)
    with pytest.raises(UserError, match="mean and std of 3 channels, and the network takes 5"):
        save_model(tmp_path / "other", model, variables)
