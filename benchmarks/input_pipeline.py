"""Times input, step and loop of the trainer: `python -m benchmarks.input_pipeline [PRESET] [--option value ...]`.

Takes train.py's options. Prints images per second of the input alone (threads, and processes with `--workers`) and of
the training step alone on a batch that is on the devices, and how much longer the trainer's loop takes per step, with
ready batches and with real input. Step and loops take turns.
"""

import contextlib
import dataclasses
import io
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath

from benchmarks.ours import start
from gcvit_flax.cli import run_cli
from gcvit_flax.data.batches import training_batches
from gcvit_flax.data.datasets import open_data
from gcvit_flax.training import steps
from gcvit_flax.training.command_line import parse
from gcvit_flax.training.plan import Plan
from gcvit_flax.training.pmapped import AXIS, shard
from gcvit_flax.training.report.run_log import RunLog
from gcvit_flax.training.train_config import TrainConfig

INPUT_SECONDS = 8.0
WARM_UP_BATCHES = 8  # More than are read ahead, so that what is timed is what is produced meanwhile.
ROUNDS, TURN_SECONDS = 5, 4.0


def main() -> None:
    """Parses, times and prints."""
    config = parse(sys.argv[1:])
    data = open_data(config.data_spec, config.val_fraction, subset=config.subset)
    config, model, devices, state = start(config, data.class_names)

    def batches(workers: int) -> Iterator[dict]:
        return training_batches(
            data.train,
            model.preprocessing,
            batch_size=config.batch_size,
            seed=config.seed,
            start_step=0,
            crop_area=config.crop_area,
            squash=config.squash,
            interpolation=config.crop_interpolation,
            repeats=config.repeated_augmentation,
            skip_corrupt=config.skip_corrupt,
            workers=workers,
        )

    for workers in sorted({0, config.workers}):
        rate = _input_rate(batches(workers), config.batch_size)
        print(f"input alone, {f'{workers} processes' if workers else 'threads'}: {rate:.1f} images/s", flush=True)

    with tempfile.TemporaryDirectory() as workdir, contextlib.redirect_stdout(io.StringIO()):
        report = RunLog(epath.Path(workdir), model, Plan(config, len(data.train)), devices, 0)
        with contextlib.closing(report):
            times = _take_turns(Trainer(config, model, devices, state, report), batches(config.workers))
    alone, ready, real = (statistics.median(seconds) for seconds in times)
    print(f"step alone: {config.batch_size / alone:.1f} images/s, {alone * 1e3:.1f} ms on {len(devices)} devices")
    for what, seconds in (("ready batches", ready), ("the input", real)):
        print(f"loop on {what}: {config.batch_size / seconds:.1f} images/s, {seconds / alone - 1:+.1%} time per step")


def _input_rate(batches: Iterator[dict], batch_size: int) -> float:
    for _ in range(WARM_UP_BATCHES):
        next(batches)
    began = time.perf_counter()
    for count in itertools.count(1):
        next(batches)
        if (elapsed := time.perf_counter() - began) > INPUT_SECONDS:
            return count * batch_size / elapsed


def _take_turns(trainer: "Trainer", batches: Iterator[dict]) -> list[tuple[float, ...]]:
    """Seconds per step in each round: of the step alone, of the loop on one repeated batch, and of it on `batches`."""
    batch = next(batches)
    turns = [lambda: trainer.step_alone(batch), lambda: trainer.loop(map(dict, itertools.repeat(batch)))]
    turns.append(lambda: trainer.loop(batches))
    trainer.step_alone(batch)  # Compiles.
    trainer.steps = max(1, round(TURN_SECONDS / trainer.step_alone(batch)))
    times = [[turn() for turn in turns] for _ in range(ROUNDS)]
    return list(zip(*times, strict=True))


@dataclasses.dataclass
class Trainer:
    """The trainer's step, and its loop without checkpoints and evaluations."""

    config: TrainConfig
    model: object
    devices: list
    state: steps.TrainState
    report: RunLog
    steps: int = 1  # In a turn.

    def __post_init__(self):
        self._step = steps.make_train_step(self.model, self.config, self.devices)
        self._key, self._rate = jax.random.key(self.config.seed), np.float32(self.config.learning_rate)
        self._done = 0

    def step_alone(self, batch: dict) -> float:
        """Seconds per step on `batch`, put on the devices beforehand."""
        batch = {name: x for name, x in batch.items() if name != "skipped"}
        mesh = jax.sharding.Mesh(np.array(self.devices), (AXIS,))
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))
        batch = jax.block_until_ready(jax.device_put(shard(batch, self.devices), sharding))
        began = time.perf_counter()
        for _ in range(self.steps):
            self.state, metrics = self._step(self.state, batch, self._key, self._rate)
        jax.block_until_ready(metrics)
        return (time.perf_counter() - began) / self.steps

    def loop(self, batches: Iterator[dict]) -> float:
        """Seconds per step of what the trainer does for each of `batches`."""
        began = time.perf_counter()
        for _ in range(self.steps):
            batch = next(batches)
            skipped = batch.pop("skipped", 0)
            batch = shard(batch, self.devices)
            self.state, metrics = self._step(self.state, batch, self._key, self._rate)
            self.report.step(metrics, skipped)
            self._done += 1
            if self._done % self.config.log_every == 0:
                self.report.training(self._done)
        jax.block_until_ready(metrics)
        return (time.perf_counter() - began) / self.steps


if __name__ == "__main__":
    run_cli(main)
