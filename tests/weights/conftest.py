import dataclasses
import functools

import h5py
import jax
import numpy as np
import pytest
import safetensors.numpy
from file_server import serve
from small import FIXTURES, random_variables

from gcvit_flax.cli import run_cli
from gcvit_flax.config import GCViTConfig
from gcvit_flax.convert_weights import main
from gcvit_flax.model.gcvit import GCViT, create_model
from gcvit_flax.weights.convert import convert
from gcvit_flax.weights.write import write_weights

MICRO = GCViTConfig(
    image_size=128,
    window_size=(4, 4, 8, 4),
    embed_dim=8,
    depths=(1, 2, 1, 1),
    num_heads=(1, 2, 4, 8),
    num_classes=10,
)


@pytest.fixture(scope="session")
def micro():
    """A small model and random variables."""
    return create_model(MICRO), random_variables(MICRO)


@pytest.fixture(scope="session")
def make_variables():
    return random_variables


@pytest.fixture(scope="session")
def assert_same_tree():
    def check(actual, expected):
        jax.tree.map(np.testing.assert_array_equal, actual, expected)

    return check


@pytest.fixture(scope="session")
def logits():
    """The logits of a model, compiled once per configuration."""

    @functools.cache
    def compiled(config):
        # Unoptimized: compiling takes nearly all of the time.
        return jax.jit(GCViT(config).apply, compiler_options={"xla_backend_optimization_level": 0})

    def run(model, variables, images):
        # Fields that only training and initialization use would compile the same program again.
        scale = None if model.config.layer_scale is None else 1.0
        config = dataclasses.replace(model.config, drop_path_rate=0.0, layer_scale=scale)
        return np.asarray(compiled(config)(variables, images))

    return run


@pytest.fixture(scope="session")
def files():
    return FIXTURES


@pytest.fixture
def refused(capsys):
    """Runs the command line, which must fail with one sentence, and returns that."""

    def run(*arguments):
        with pytest.raises(SystemExit) as exit_:
            run_cli(lambda: main([str(argument) for argument in arguments]))
        captured = capsys.readouterr()
        assert exit_.value.code == 1, captured.err
        assert captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err
        assert captured.out == ""
        return captured.err

    return run


@pytest.fixture(scope="session")
def official(tmp_path_factory, files):
    """The tensors of the micro fixtures under their official names."""
    folder = tmp_path_factory.mktemp("official")
    convert(files / "micro.nvlabs.pth.tar", folder / "m")
    write_weights(folder / "m", folder / "m.safetensors", "official")
    return safetensors.numpy.load_file(folder / "m.safetensors")


@pytest.fixture
def rejects(refused, tmp_path):
    """Runs a conversion, which must fail with one sentence and write nothing, and returns the sentence."""

    def run(source, *arguments):
        before = sorted(tmp_path.iterdir())
        message = refused(source, tmp_path / "dest", *arguments)
        assert sorted(tmp_path.iterdir()) == before
        return message

    return run


@pytest.fixture(scope="session")
def h5_datasets():
    """Every dataset of an open HDF5 file, path -> (dtype, shape, bytes)."""

    def read(file):
        found = {}
        with h5py.File(file) as group:
            group.visititems(lambda name, item: found.update({name: item[()]}) if hasattr(item, "dtype") else None)
        return {name: (values.dtype.str, values.shape, values.tobytes()) for name, values in found.items()}

    return read


@pytest.fixture
def server():
    with serve() as server:
        yield server
