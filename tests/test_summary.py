"""gcvit_flax.summary beside what others count and publish."""

import json

import pytest
from small import TINY, random_variables

from gcvit_flax.model.gcvit import create_model
from gcvit_flax.summary import main, summarize
from gcvit_flax.variants import PUBLISHED_TOP1, VARIANTS
from gcvit_flax.weights.model_folder import save_model

# Billions of multiply-adds and millions of activations, in timm's benchmark-infer-amp-nhwc-pt210-cu121-rtx3090.csv
# of 2023; the first are a little more, as they count some operations between matrix products too.
BY_TIMM = {
    "gcvit_xxtiny": (2.14, 15.36),
    "gcvit_xtiny": (2.93, 20.26),
    "gcvit_tiny": (4.79, 29.82),
    "gcvit_small": (8.57, 41.61),
    "gcvit_base": (14.87, 55.48),
}


@pytest.mark.parametrize("variant", BY_TIMM)
def test_totals_are_those_that_timm_states(variant):
    summary = summarize(variant)
    multiply_adds, activations = BY_TIMM[variant]
    assert summary["multiply_adds"] / 1e9 == pytest.approx(multiply_adds, rel=0.01)
    assert summary["activations"] / 1e6 == pytest.approx(activations, abs=0.006)


def test_a_table_and_json(run_command):
    table = run_command("-m", "gcvit_flax.summary", "gcvit_xxtiny").stdout
    assert "11,995,428" in table and "published top-1 of gcvit_xxtiny: 79.9 %" in table
    summary = json.loads(run_command("-m", "gcvit_flax.summary", "gcvit_xxtiny", "--json").stdout)
    assert [part["parameters"] for part in summary["parts"]] == [
        45_632,
        180_964,
        688_456,
        5_170_608,
        5_395_744,
        514_024,
    ]
    assert summary["parts"][2]["output"] == [28, 28, 128] and summary["parts"][5]["output"] == [1000]
    for count in ("parameters", "multiply_adds", "activations"):
        assert summary[count] == sum(part[count] for part in summary["parts"])
    assert all(str(f"{part['multiply_adds']:,}") in table for part in summary["parts"])


def test_the_stem_by_hand():
    """A convolution, then a depthwise one, squeeze and excitation, a product and a convolution."""
    stem = summarize("gcvit_xxtiny")["parts"][0]
    half, quarter, width = 112**2, 56**2, 64
    products = [half * 27 * width, half * 9 * width, 2 * width * 16, half * width**2, quarter * 9 * width**2]
    assert stem["multiply_adds"] == sum(products)
    assert stem["activations"] == 3 * half * width + 16 + width + quarter * width


def test_larger_images_cost_more_and_hold_no_more_parameters_but_tables():
    small, large = summarize("gcvit_tiny"), summarize("gcvit_tiny", (448, 224))
    assert large["image_size"] == [448, 224] and large["parts"][0]["output"] == [112, 56, 64]
    assert large["parts"][0]["multiply_adds"] == pytest.approx(2 * small["parts"][0]["multiply_adds"], rel=1e-4)
    assert large["published_top1"] is None and large["variant"] == "gcvit_tiny"
    assert large["parts"][0]["parameters"] == small["parts"][0]["parameters"]


def test_a_model_folder(tmp_path, capsys):
    model = create_model(TINY, in_channels=5, num_classes=0)
    save_model(tmp_path / "m", model, random_variables(model.config))
    main([str(tmp_path / "m"), "--image-size", "64"])
    assert "no published variant, 64x64 px, 5 channels, 0 classes" in capsys.readouterr().out
    summary = summarize(str(tmp_path / "m"))
    folder_config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert summary["parameters"] == folder_config["parameter_count"]
    assert summary["parts"][-1] == {
        "name": "head",
        "output": [64],
        "parameters": 128,
        "multiply_adds": 0,
        "activations": 0,
    }


def test_what_is_no_network(run_command):
    error = run_command("-m", "gcvit_flax.summary", "gcvit_gigantic", status=1).stderr
    assert "gcvit_gigantic is not a model folder" in error and error.count("\n") == 1
    error = run_command("-m", "gcvit_flax.summary", "gcvit_tiny", "--image-size", "225", status=1).stderr
    assert "use 224x224 or 256x256" in error and error.count("\n") == 1
    run_command("-m", "gcvit_flax.summary", "gcvit_tiny", "--image-size", "1", "2", "3", status=2)


def test_every_variant_has_a_published_accuracy():
    assert PUBLISHED_TOP1.keys() == VARIANTS.keys()
