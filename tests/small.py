"""The smallest networks that have every kind of layer, and what tests do with a run of one."""

import json
import os
import random
import resource
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from gcvit_flax.config import GCViTConfig
from gcvit_flax.model.tree import parameter_shapes, unflatten

ROOT = Path(__file__).parents[1]
TRAIN = ROOT / "train.py"
FIXTURES = ROOT / "tests" / "fixtures"  # Weight files written by other programs; see the README there.

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


def random_variables(config: GCViTConfig, seed: int = 0) -> dict:
    """Variables of a network of `config`, every parameter normal(0, 0.1): no scale is 1, no bias 0."""
    draw = np.random.default_rng(seed).normal
    flat = {name: draw(0, 0.1, leaf.shape).astype(np.float32) for name, leaf in parameter_shapes(config).items()}
    return {"params": unflatten(flat)}


def flips(folder, count: int) -> Iterator[tuple[str, bytes]]:
    """Files below `folder` with their contents, one random bit of each changed: every file that is not empty, and more
    of them up to `count`.
    """
    rng = random.Random(0)
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file() and path.stat().st_size)
    for index in range(max(count, len(paths))):
        path = paths[index] if index < len(paths) else rng.choice(paths)
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        yield str(path.relative_to(folder)), bytes(content)


# In metrics.jsonl, what differs from run to run.
VARYING = (
    *("images_per_second", "input_share", "device_share", "peak_memory_gib"),
    *("elapsed_seconds", "evaluation_seconds", "epoch_images_per_second"),
)


def read_metrics(workdir) -> list[dict]:
    """`parse_metrics` of a folder's metrics.jsonl, if there is one."""
    path = workdir / "metrics.jsonl"
    return parse_metrics(path.read_text() if path.exists() else "")


def parse_metrics(text: str) -> list[dict]:
    """The whole lines of metrics.jsonl, but for what differs from run to run."""
    records = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [{name: value for name, value in record.items() if name not in VARYING} for record in records]


def wait_until(condition: Callable[[], bool], *running: subprocess.Popen) -> None:
    """Returns once `condition` holds; fails if one of `running` ends before."""
    deadline = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < deadline and all(process.poll() is None for process in running)
        time.sleep(0.05)


def alive(group: int) -> bool:
    """Whether any process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def free_address() -> str:
    """HOST:PORT of this machine that nobody listens to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return "127.0.0.1:{1}".format(*free.getsockname())


@contextmanager
def full_disk():
    """No file may grow beyond a kilobyte: the system's errors are those of a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
