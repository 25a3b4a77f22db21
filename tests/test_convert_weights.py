import jax
import numpy as np
import pytest
from small import FIXTURES, random_variables

from gcvit_flax.config import GCViTConfig
from gcvit_flax.convert_weights import main
from gcvit_flax.errors import UserError
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.weights.model_folder import load_model, save_model
from gcvit_flax.weights.verify import verify
from gcvit_flax.weights.write import write_weights


@pytest.fixture
def script(run_command, request):
    path = request.config.rootpath / "convert_keras_weights.py"
    return lambda *arguments, status=0: run_command(path, *arguments, status=status)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A small network's weights as a .keras file of the package gcvit."""
    folder = tmp_path_factory.mktemp("tiny")
    config = GCViTConfig(image_size=32, embed_dim=4, depths=(1,) * 4, num_heads=(1,) * 4, num_classes=10)
    save_model(folder / "m", GCViT(config), random_variables(config))
    write_weights(folder / "m", folder / "tiny.keras", "gcvit_tf")
    return folder / "tiny.keras"


def test_there_verified_and_back(script, tmp_path, tiny):
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    np.savez(tmp_path / "inputs.npz", images=images)
    done = script(tiny, "m", "--reference", "gcvit_tf", "--verify", "inputs.npz")
    assert done.stderr == ""
    for part in ("written by the package gcvit", "gcvit_tf: one position bias per head", "image 1"):
        assert part in done.stdout
    model, variables = load_model(tmp_path / "m")
    best = np.asarray(jax.jit(model.apply)(variables, images))[0]
    assert f"{best.max():.4f}" in done.stdout and f"class {best.argmax()}" in done.stdout
    main([str(tmp_path / "m"), str(tmp_path / "back.keras"), "--to", "gcvit_tf"])
    assert (tmp_path / "back.keras").exists()


def test_exit_statuses(script, tmp_path):
    failed = script("absent.keras", "m", status=1)
    assert failed.stderr.startswith("error: absent.keras is not there") and failed.stderr.count("\n") == 1
    assert "required: SOURCE, DEST" in script(status=2).stderr
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["a", "b", "--to", "pytorch"],
        ["a", "b", "--reference", "paper"],
        ["a", "b", "--variant", "gcvit_huge"],
        ["a", "b", "--image-size", "1", "2", "3"],
        ["a", "b", "--to", "timm", "--ema"],
        ["a", "b", "--to", "timm", "--num-classes", "3"],
        ["a", "b", "--colour"],
    ],
)
def test_usage_errors(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_options_reach_the_conversion(tmp_path, capsys):
    source = str(FIXTURES / "micro.nvlabs.pth.tar")
    options = ["--num-classes", "4", "--image-size", "64", "96", "--reference", "keras_io", "--ema"]
    main([source, str(tmp_path / "m"), *options])
    model, variables = load_model(tmp_path / "m")
    assert model.config.image_size == (64, 96) and model.config.reference == "keras_io"
    assert variables["params"]["head"]["kernel"].shape == (64, 4)
    assert "averaged weights" in capsys.readouterr().out
    main([source, str(tmp_path / "m"), "--image-size", "128", "--force"])
    assert load_model(tmp_path / "m")[0].config.num_classes == 10


def test_help_tells_the_references_apart(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for part in ("official", "gcvit_tf", "keras_io", "trained", "timm/gcvit_tiny"):
        assert part in text


def test_verify_takes_a_photo_with_class_names(tmp_path, tiny, photos, capsys):
    photo = next((photos / "val").rglob("*.jpg"))
    main([str(tiny), str(tmp_path / "m"), "--verify", str(photo)])
    lines = capsys.readouterr().out.splitlines()
    assert sum("class " in line and "%" in line for line in lines) == 5


def test_verify_refuses_other_arrays(tmp_path, tiny):
    main([str(tiny), str(tmp_path / "m")])
    images = np.zeros((2, 32, 32, 3), np.float32)
    np.savez(tmp_path / "x.npz", pixels=np.zeros(3))
    (tmp_path / "y.npz").write_text("no archive")
    np.savez(tmp_path / "whole.npz", images=images)
    content = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    (tmp_path / "changed.npz").write_bytes(content[:5000] + b"?" + content[5001:])
    (tmp_path / "shorter.npz").write_bytes(content[:68] + b"f" + content[69:])  # The length of the array's own header.
    np.savez(tmp_path / "none.npz", images=images[:0])
    with (tmp_path / "alone.npz").open("wb") as file:
        np.save(file, images)
    reasons = {"x": "images", "absent": "No such file", "changed": "CRC", "shorter": "CRC", "none": "it has none"}
    for name, reason in (reasons | dict.fromkeys(("y", "cut", "alone"), "not a zip file")).items():
        with pytest.raises(UserError, match=rf"holds no images \(.*{reason}"):
            verify(tmp_path / "m", tmp_path / f"{name}.npz")


def test_verify_without_a_head_shows_features(tmp_path, tiny, capsys):
    images = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)
    np.savez(tmp_path / "inputs.npz", images=images)
    main([str(tiny), str(tmp_path / "m"), "--num-classes", "0", "--verify", str(tmp_path / "inputs.npz")])
    model, variables = load_model(tmp_path / "m")
    first = np.asarray(jax.jit(model.apply)(variables, images))[0, 0]
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"image 0  features {first:.4g}"[:-1])
