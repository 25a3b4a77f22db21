"""Times the trainer's own step: `python -m benchmarks.training_step [PRESET] [--option value ...]`, as train.py.

Prints how long tracing and compiling take (without the cache), the median and the smallest time of a step over
random images, and the peak memory of the process.
"""

import resource
import statistics
import sys
import time

import jax
import numpy as np

from gcvit_flax.devices import choose_devices, simulate_devices
from gcvit_flax.errors import run_cli
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.training.cli import parse
from gcvit_flax.training.config import TrainConfig
from gcvit_flax.training.plan import settle
from gcvit_flax.training.setup import build_model, first_params
from gcvit_flax.training.steps import TrainState, make_train_step, replicate, shard, start_state

ROUNDS = 10


def main() -> None:
    """Parses, compiles and times."""
    config = parse(sys.argv[1:])
    config, model, devices, state = start(config, tuple(str(i) for i in range(config.num_classes or 10)))
    arguments = (_random_batch(config.batch_size, model, devices), jax.random.key(0), np.float32(config.learning_rate))

    began = time.perf_counter()
    lowered = make_train_step(model, config, devices).lower(state, *arguments)
    traced = time.perf_counter()
    step = lowered.compile()
    compiled = time.perf_counter()
    print(
        f"trace {traced - began:.1f} s, compile {compiled - traced:.1f} s, on {len(devices)} x {devices[0].device_kind}"
    )

    seconds = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        state, metrics = step(state, *arguments)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds[1:])  # The first one touches its memory for the first time.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"step {median:.3f} s median, {min(seconds[1:]):.3f} s best of {ROUNDS}; {config.batch_size / median:.1f} "
        f"images/s; peak memory {peak:.2f} GiB"
    )


def start(config: TrainConfig, class_names: tuple[str, ...]) -> tuple[TrainConfig, GCViT, list, TrainState]:
    """What the trainer has before its first step: settled options, model, devices, and the state on all of them."""
    simulate_devices(config.devices)
    model = build_model(config, class_names)
    config = settle(config, model.config)
    devices = choose_devices(config.batch_size, config.devices)
    return config, model, devices, replicate(start_state(model, first_params(config, model), config), devices)


def _random_batch(batch_size: int, model, devices: list) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (batch_size, *model.preprocessing.image_size, 3), dtype=np.uint8),
        "label": rng.integers(0, model.config.num_classes, batch_size).astype(np.int32),
        "index": np.arange(batch_size, dtype=np.int32),
    }
    return shard(batch, devices)


if __name__ == "__main__":
    run_cli(main)
