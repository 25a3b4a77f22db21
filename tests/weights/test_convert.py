import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from gcvit_flax.config import REFERENCES
from gcvit_flax.errors import UserError
from gcvit_flax.model.gcvit import create_model
from gcvit_flax.model.tree import flatten
from gcvit_flax.variants import VARIANTS
from gcvit_flax.weights.classes import imagenet_classes
from gcvit_flax.weights.convert import convert
from gcvit_flax.weights.model_folder import load_model, read_folder_config, save_model
from gcvit_flax.weights.write import write_weights

MICRO_FILES = (
    "micro.keras302.keras",
    "micro.keras315.keras",
    "micro.gcvit_tf.keras",
    "micro.gcvit_tf.weights.h5",
    "micro.gcvit_tf_keras2.h5",
    "micro.nvlabs.pth.tar",
)
LAYER_SCALE_FILES = ("micro_ls.keras302.keras", "micro_ls.gcvit_tf.keras")
FAMILIES = {
    "keras302": "the Keras example",
    "keras315": "the Keras example",
    "gcvit_tf": "the package gcvit",
    "gcvit_tf_keras2": "the package gcvit under Keras 2",
    "nvlabs": "the official PyTorch release",
}


def assert_close(actual, golden):
    np.testing.assert_allclose(actual, golden, rtol=0, atol=1e-5 * np.abs(golden).max())


@pytest.mark.parametrize("names", [MICRO_FILES, LAYER_SCALE_FILES], ids=["micro", "micro_ls"])
def test_every_file_gives_the_golden_logits_and_the_same_parameters(
    tmp_path, files, names, logits, assert_same_tree, subtests
):
    golden = np.load(files / names[0].replace(names[0].split(".", 1)[1], "golden.npz"))
    first = None
    for name in names:
        with subtests.test(name):
            folder = tmp_path / name
            report = convert(files / name, folder)
            assert FAMILIES[name.split(".")[1]] == report.provenance()["written_by"]
            model, variables = load_model(folder)
            first = variables if first is None else first
            assert_same_tree(variables, first)
    for reference in REFERENCES:
        with subtests.test(reference):
            model = create_model(model.config, reference=reference)
            assert_close(logits(model, first, golden["images"]), golden[reference])


def test_the_references_differ(files):
    golden = np.load(files / "micro.golden.npz")
    for other in ("gcvit_tf", "keras_io"):
        difference = np.abs(golden[other] - golden["official"]).max() / np.abs(golden["official"]).max()
        assert difference > 1e-3


def test_averaged_weights(tmp_path, files, logits):
    report = convert(files / "micro.nvlabs.pth.tar", tmp_path / "m", ema=True)
    assert "averaged weights" in str(report)
    golden = np.load(files / "micro.golden.npz")
    assert_close(logits(*load_model(tmp_path / "m"), golden["images"]), golden["official_ema"])
    with pytest.raises(UserError, match="leave --ema out"):
        convert(files / "micro.keras302.keras", tmp_path / "n", ema=True)


def test_the_folder_and_the_report_say_where_the_weights_are_from(tmp_path, files):
    report = convert(files / "micro.nvlabs.pth.tar", tmp_path / "m", reference="gcvit_tf")
    folder_config = read_folder_config(tmp_path / "m")
    assert folder_config["reference"] == "gcvit_tf"
    assert folder_config["parameter_count"] == 147_928
    assert folder_config["provenance"] == {
        "source": "micro.nvlabs.pth.tar",
        "size_bytes": 1_454_761,
        "sha256": "0d5d6439845056d1df06bb04757d06c47dcee09a8079a9477df5baa46e2e70c0",
        "format": "PyTorch",
        "written_by": "the official PyTorch release",
        "tensor_count": 174,
        "skipped_tensor_count": 8,
        "changes": [],
    }
    for part in ("0d5d6439", "174 used, 8 skipped", "147,928", "gcvit_tf: ", "no published variant: 128x128 px"):
        assert part in str(report)


def test_the_configuration_is_inferred(tmp_path, files):
    convert(files / "micro_ls.gcvit_tf.keras", tmp_path / "m")
    config = load_model(tmp_path / "m")[0].config
    assert (config.image_size, config.embed_dim, config.depths) == ((128, 128), 8, (1, 2, 3, 2))
    assert config.window_size == ((4, 4), (4, 4), (8, 8), (4, 4))
    assert (config.num_heads, config.mlp_ratio, config.num_classes) == ((1, 2, 4, 8), 2.0, 10)
    assert (config.layer_scale, config.drop_path_rate, config.qkv_bias) == (0.3, 0.3, True)


def test_a_file_of_the_keras_example_gets_a_notice(tmp_path, files):
    assert "right only under --reference keras_io" in str(convert(files / "micro.keras302.keras", tmp_path / "a"))
    assert "notice" not in str(convert(files / "micro.keras302.keras", tmp_path / "b", reference="keras_io"))
    assert "notice" not in str(convert(files / "micro.gcvit_tf.keras", tmp_path / "c"))


def test_a_new_head_and_another_size(tmp_path, files):
    report = convert(files / "micro.gcvit_tf.keras", tmp_path / "m", num_classes=3, image_size=(96, 160))
    assert "the head is new, 3 classes" in str(report) and "resampled" in str(report)
    model, variables = load_model(tmp_path / "m")
    assert model.config.image_size == model.preprocessing.image_size == (96, 160)
    assert variables["params"]["head"]["kernel"].shape == (64, 3)
    assert read_folder_config(tmp_path / "m")["provenance"]["changes"] == list(report.changes)


def test_a_variant_is_named_and_checked(tmp_path, make_variables):
    config = VARIANTS["gcvit_xxtiny"]
    save_model(tmp_path / "m", *_model_and_variables(config, make_variables))
    write_weights(tmp_path / "m", tmp_path / "x.weights.h5", "gcvit_tf")
    report = convert(tmp_path / "x.weights.h5", tmp_path / "again", variant="gcvit_xxtiny")
    assert "gcvit_xxtiny, 224x224 px, 1000 classes" in str(report)
    assert "CC-BY-NC-SA-4.0" in report.license
    folder_config = read_folder_config(tmp_path / "again")
    assert folder_config["variant"] == "gcvit_xxtiny" and folder_config["parameter_count"] == 11_995_428
    assert folder_config["class_names"] == imagenet_classes()
    assert load_model(tmp_path / "again")[0].config == config
    with pytest.raises(UserError, match=r"is gcvit_xxtiny, .* expected gcvit_tiny"):
        convert(tmp_path / "x.weights.h5", tmp_path / "n", variant="gcvit_tiny")
    assert not (tmp_path / "n").exists()


def _model_and_variables(config, make_variables):
    return create_model(config), make_variables(config)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision_is_cast_and_reported(tmp_path, files, kind):
    convert(files / "micro.nvlabs.pth.tar", tmp_path / "plain")
    write_weights(tmp_path / "plain", tmp_path / "plain.safetensors", "official")
    tensors = safetensors.numpy.load_file(tmp_path / "plain.safetensors")
    dtype = np.dtype(getattr(ml_dtypes, kind, kind))
    half = {name: values.astype(dtype) if values.dtype == np.float32 else values for name, values in tensors.items()}
    safetensors.numpy.save_file(half, tmp_path / "half.safetensors")
    assert f"174 {kind} tensors cast to float32" in str(convert(tmp_path / "half.safetensors", tmp_path / "half"))
    before = flatten(load_model(tmp_path / "plain")[1]["params"])
    for name, values in flatten(load_model(tmp_path / "half")[1]["params"]).items():
        np.testing.assert_array_equal(values, np.asarray(before[name]).astype(dtype).astype(np.float32))


def test_dest_is_replaced_only_by_force(tmp_path, files):
    convert(files / "micro.keras302.keras", tmp_path / "m")
    with pytest.raises(UserError, match="--force"):
        convert(files / "micro_ls.keras302.keras", tmp_path / "m")
    convert(files / "micro_ls.keras302.keras", tmp_path / "m", force=True)
    assert load_model(tmp_path / "m")[0].config.layer_scale == 0.3
