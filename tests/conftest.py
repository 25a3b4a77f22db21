"""Every test runs on two simulated CPU devices, so that what is spread over devices is tested on any laptop."""

import importlib.metadata
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# Compiling takes most of the tests' time; unoptimized code computes the same. The quicker of two code generators, which
# later versions of JAX do not have, makes it in half the time, and one part per program saves a tenth.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_backend_optimization_level=0"
    + (
        " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        if importlib.metadata.version("jax").startswith("0.10.")
        else ""
    )
)

import jax
import numpy as np
import pytest
from jaxtyping import install_import_hook
from PIL import Image

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)

# The shapes that these modules' signatures declare are checked wherever a test calls them.
CHECKED = (
    "kernels.attention_by_heads",
    "kernels.convolution",
    "kernels.dense",
    "kernels.pointwise",
    "kernels.windowed_attention",
    "windows",
)
install_import_hook([f"gcvit_flax.model.{name}" for name in CHECKED], "beartype.beartype")

from small import SMALL, TRAIN  # noqa: E402


@pytest.fixture
def heeded_signals() -> Iterator[None]:
    """What a shell in the background or nohup lets programs ignore is not ignored."""
    before = {signum: signal.signal(signum, signal.default_int_handler) for signum in (signal.SIGINT, signal.SIGHUP)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture(scope="session")
def compiled_programs(pytestconfig) -> Path:
    """A compilation cache that pytest's processes share, kept from run to run."""
    return pytestconfig.cache.mkdir("compiled_programs")


@pytest.fixture(scope="session")
def finetune(photos) -> list:
    """The command line that trains the smallest network on the photos for an epoch of six steps."""
    return [TRAIN, "finetune", "--data", f"folder:{photos}", *SMALL, "--log-every", "1", "--epochs", "1"]


@pytest.fixture(scope="session", autouse=True)
def kept_programs(compiled_programs) -> None:
    """What one test has compiled, no other compiles again."""
    jax.config.update("jax_compilation_cache_dir", str(compiled_programs))


@pytest.fixture
def own_names() -> Iterator[None]:
    """Compiled programs have the operations' names of this code, which a kept program may have of earlier code."""
    jax.config.update("jax_compilation_cache_include_metadata_in_key", True)
    yield
    jax.config.update("jax_compilation_cache_include_metadata_in_key", False)


@pytest.fixture(scope="session")
def environment(compiled_programs) -> dict[str, str]:
    """The environment of a command line under test."""
    return {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(compiled_programs)}


@pytest.fixture
def run_command(environment, tmp_path):
    """Runs a Python command line in an empty folder, as a user would, and returns the finished process."""

    def run(*arguments, status: int = 0, **variables) -> subprocess.CompletedProcess:
        process = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=tmp_path,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert process.returncode == status, f"{process.stdout}\n{process.stderr}"
        return process

    return run


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """A folder of generated JPEGs of various sizes: three classes, told apart by their color, 8 + 3 images each."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 3)):
        for channel, name in enumerate(("blue_things", "green_things", "red_things")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 100, (*rng.integers(40, 90, 2), 3), dtype=np.uint8)
                pixels[..., 2 - channel] += 120
                Image.fromarray(pixels).save(folder / f"{index}.jpg")
    return root
