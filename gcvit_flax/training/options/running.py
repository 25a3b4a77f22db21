"""Where a run takes place, and what it leaves behind."""

import dataclasses
from typing import Literal

from gcvit_flax.training.options.bounds import NOT_NEGATIVE, POSITIVE, option


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """The run's folder, its randomness, evaluations and checkpoints."""

    # Folder for config.json, metrics, checkpoints and the model; a run that was stopped there is resumed. Default:
    # runs/PRESET.
    workdir: str | None = option(None, free_on_resume=True)
    # Resume the run in the workdir; --no-resume replaces it.
    resume: bool = option(True, free_on_resume=True)
    # Decides the initial weights, the order of the data and everything random.
    seed: int = option(0, NOT_NEGATIVE)
    # Epochs between two evaluations; one comes at the end in any case.
    evaluate_every: float = option(1.0, POSITIVE, free_on_resume=True)
    # Steps between two checkpoints, besides those after evaluations.
    save_every: int | None = option(None, POSITIVE, free_on_resume=True)
    # Latest checkpoints to keep, besides the best.
    keep: int = option(2, POSITIVE, free_on_resume=True)


@dataclasses.dataclass(frozen=True)
class DeviceOptions:
    """Devices, processes, memory and precision."""

    # Dtype that the layers compute in; parameters, statistics and losses are float32.
    dtype: Literal["float32", "bfloat16"] = "float32"
    # Recompute each block in the backward pass: less memory, more time.
    remat: bool = option(False, free_on_resume=True)
    # Parts of each device's share that are computed one after the other (gradient accumulation): the same update with
    # less memory.
    accumulation_steps: int = option(1, POSITIVE, free_on_resume=True)
    # Devices to train on, of each process. Default: all, or on a CPU one per core, as many as divide the batch.
    devices: int | None = option(None, free_on_resume=True)
    # Address HOST:PORT of the first of several processes. Default: detected on Cloud TPU, Slurm and Kubernetes, or
    # JAX_COORDINATOR_ADDRESS.
    coordinator: str | None = option(None, free_on_resume=True)
    # How many processes train together, if that is not detected.
    num_processes: int | None = option(None, free_on_resume=True)
    # This process's number, from 0.
    process_id: int | None = option(None, free_on_resume=True)


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """Metrics and traces."""

    # Steps between two lines of metrics.
    log_every: int = option(20, POSITIVE, free_on_resume=True)
    # Send the metrics to this project of Weights & Biases too.
    wandb: str | None = option(None, free_on_resume=True)
    # Steps START:STOP to trace into WORKDIR/profile, for TensorBoard or Perfetto.
    profile: str | None = option(None, free_on_resume=True)
