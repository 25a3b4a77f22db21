"""Every test runs on two simulated CPU devices, so that what is spread over devices is tested on any laptop."""

import json
import os
import subprocess
import sys
from pathlib import Path

# Compiling takes most of the tests' time; unoptimised code computes the same.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"

import jax
import numpy as np
import pytest
from PIL import Image

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)

from gcvit_flax.config import GCViTConfig  # noqa: E402

ROOT = Path(__file__).parents[1]
TRAIN = ROOT / "train.py"

# The smallest network that has every kind of layer and of randomness; one for all, since compiling it takes longest.
SMALL = [
    *("--embed-dim", "8", "--depths", "2", "1", "1", "1", "--num-heads", "1", "2", "2", "4"),
    *("--window-size", "4", "4", "2", "1", "--image-size", "32", "--batch-size", "4"),
    *("--dropout-rate", "0.1", "--drop-path-rate", "0.1"),
]

# About 20 thousand parameters; every kind of layer, poolings in the query generators included.
TINY = GCViTConfig(
    image_size=32,
    window_size=(4, 4, 2, 1),
    embed_dim=8,
    depths=(2, 1, 1, 1),
    num_heads=(1, 2, 2, 4),
    num_classes=3,
)


def read_metrics(workdir) -> list[dict]:
    """The lines of metrics.jsonl, but for what differs from run to run."""
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k != "images_per_second"} for record in records]


@pytest.fixture(scope="session")
def compiled_programs(tmp_path_factory, worker_id) -> Path:
    """A compilation cache that all command-line tests share, whichever of pytest's processes they run in."""
    base = tmp_path_factory.getbasetemp()
    return (base if worker_id == "master" else base.parent) / "compiled"


@pytest.fixture(scope="session")
def finetune(photos) -> list:
    """The command line that trains the smallest network on the photos for an epoch of six steps."""
    return [TRAIN, "finetune", "--data", f"folder:{photos}", *SMALL, "--log-every", "1", "--epochs", "1"]


@pytest.fixture
def run_command(compiled_programs, tmp_path):
    """Runs a Python command line in an empty folder, as a user would, and returns the finished process."""

    def run(*arguments, status: int = 0, **environment) -> subprocess.CompletedProcess:
        process = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=tmp_path,
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "JAX_COMPILATION_CACHE_DIR": str(compiled_programs),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert process.returncode == status, f"{process.stdout}\n{process.stderr}"
        return process

    return run


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """A folder of generated JPEGs of various sizes: three classes, told apart by their colour, 8 + 3 images each."""
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
