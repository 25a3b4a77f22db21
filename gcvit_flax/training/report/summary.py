"""What a run says of itself when it starts and when it ends."""

import jax

import gcvit_flax
from gcvit_flax.data.bands import RGB
from gcvit_flax.data.sources import Dataset
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.model.init import abstract_params
from gcvit_flax.training.plan import Plan
from gcvit_flax.training.train_config import TrainConfig


def describe_run(
    config: TrainConfig, plan: Plan, data: Dataset, model: GCViT, devices: list[jax.Device], start_step: int
) -> str:
    """Model, data, steps and devices, and why nothing happens for a while."""
    sizes = jax.tree.map(lambda x: x.size, abstract_params(model))
    parameters = f"{sum(jax.tree.leaves(sizes)):,} parameters"
    if config.head_only:
        parameters += f", {sum(jax.tree.leaves(sizes['head'])):,} of them trained"
    size = "x".join(map(str, model.preprocessing.image_size))
    channels = (
        "" if model.config.in_channels == RGB else f", in_channels {model.config.in_channels} (colors are not changed)"
    )
    count, processes = len(devices) * jax.process_count(), jax.process_count()
    places = f"{count} {devices[0].platform} device{'s'[: count > 1]}"
    if processes > 1:
        places += f" of {processes} processes"
    subset = f", --train-fraction {config.train_fraction:g}" if config.train_fraction else ""
    subset += f", --shots {config.shots}" if config.shots else ""
    return (
        f"model: {parameters}, {size} px{channels}, {len(data.class_names)} classes "
        f"(gcvit_flax {gcvit_flax.__version__})\n"
        f"data: {len(data.train):,} training and {len(data.validation):,} validation images ({config.data}{subset})\n"
        f"run: steps {start_step + 1:,} to {plan.last_step:,} of {plan.total_steps:,}, {config.batch_size} images "
        f"each, on {places}, in {config.workdir}\n"
        "compiling the training step (once; later runs find it in the cache) ..."
    )


def describe_outcome(workdir: str | None, stop: str | None) -> str:
    """Where the results are, or how to go on after `stop`."""
    if stop:
        return f"{stop} in {workdir}; the same command resumes it"
    return f"done: the best model is in {workdir}/model, metrics and curves in {workdir}/metrics.jsonl and curves.png"
