"""The training run from its command line to its end: what is decided before the first step."""

import contextlib
import dataclasses
import re

import jax.numpy as jnp
from etils import epath

from gcvit_flax.config import GCViTConfig, Preprocessing
from gcvit_flax.devices import choose_devices, simulate_devices
from gcvit_flax.errors import UserError
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.training import hosts
from gcvit_flax.training.checkpoints import Checkpoints
from gcvit_flax.training.config import FREE_ON_RESUME, TrainConfig
from gcvit_flax.training.data import Data, open_data
from gcvit_flax.training.plan import settle
from gcvit_flax.training.run import Run
from gcvit_flax.training.setup import build_model
from gcvit_flax.training.workdir import CHECKPOINTS_NAME, locked, read_settings, run_to_resume, write_settings


def train(config: TrainConfig) -> None:
    """Runs, or takes up, the training run in `config.workdir` to its end or to SIGTERM, and says where all lies.

    Raises:
      UserError: (a ValueError) options, data or a workdir that do not fit, or a loss that is not finite.
    """
    _check_options(config)
    simulate_devices(config.devices)
    hosts.join(config.coordinator, config.num_processes, config.process_id)
    with hosts.failing_together():
        data = open_data(config.data, config.val_fraction)
    workdir = epath.Path(config.workdir).expanduser()
    if "://" not in str(workdir):
        workdir = workdir.absolute()  # As Orbax needs it.
    with contextlib.ExitStack() as stack:
        with hosts.failing_together():
            facts = _facts(config, data)
            if hosts.is_first():
                stack.enter_context(locked(workdir))
                _prepare(workdir, config, data, facts)
        hosts.check_alike("options or data", {name: value for name, value in facts.items() if name != "process_id"})
        with hosts.failing_together():
            run = _make_run(workdir, config, data)
        stack.enter_context(hosts.leaving_at_once())
        with Checkpoints(workdir / CHECKPOINTS_NAME, config.keep) as checkpoints:
            if (checkpoints.latest_step or 0) < run.plan.last_step:
                run.execute(checkpoints)
            elif hosts.is_first():
                print(
                    f"{config.workdir}: this run is done, at step {checkpoints.latest_step}, and its model is in "
                    f"{config.workdir}/model; use --no-resume to start afresh, or another --workdir"
                )
        hosts.wait_for_all("the run has ended")


def _facts(config: TrainConfig, data: Data) -> dict:
    """What must not change when a run is taken up again, nor differ between hosts."""
    names = list(data.class_names)
    return {**dataclasses.asdict(config), "class_names": names, "training_examples": len(data.train)}


def _prepare(workdir: epath.Path, config: TrainConfig, data: Data, facts: dict) -> None:
    """Writes config.json: of the run that goes on, so that it needs nothing but its workdir, or of a new one."""
    settings = run_to_resume(workdir, facts, FREE_ON_RESUME, config.resume)
    if settings is None:
        model = build_model(config, data.class_names)
        settings = {"model": dataclasses.asdict(model.config), "preprocessing": dataclasses.asdict(model.preprocessing)}
    write_settings(workdir, settings | facts)


def _make_run(workdir: epath.Path, config: TrainConfig, data: Data) -> Run:
    settings = read_settings(workdir)
    model = GCViT(
        GCViTConfig(**settings["model"]),
        Preprocessing(**settings["preprocessing"]),
        dtype=jnp.dtype(config.dtype),
        remat=config.remat,
    )
    config = settle(config, model.config)
    devices = choose_devices(config.batch_size, config.devices)
    _check_shares(config, len(devices) * hosts.count())
    return Run(config, data, model, devices, workdir)


_POSITIVE = ("epochs", "max_steps", "batch_size", "accumulation_steps", "learning_rate", "adam_epsilon", "clip_norm")
_POSITIVE += ("evaluate_every", "save_every", "keep", "log_every", "layer_decay")
_NOT_NEGATIVE = ("cooldown_epochs", "warmup_epochs", "weight_decay", "color_jitter", "mixup", "cutmix", "workers")
_SHARES = ("label_smoothing", "random_erasing", "ema_decay")


def _check_options(config: TrainConfig) -> None:
    for names, fits, expected in (
        (_POSITIVE, lambda value: value > 0, "positive"),
        (_NOT_NEGATIVE, lambda value: value >= 0, "at least 0"),
        (_SHARES, lambda value: 0 <= value < 1, "at least 0 and below 1"),
        (("rand_augment",), lambda value: 0 <= value <= 10, "from 0 to 10"),
    ):
        for name in names:
            value = getattr(config, name)
            if value is not None and not fits(value):
                raise UserError(f"--{name.replace('_', '-')} must be {expected}, got {value}")
    low, high = config.crop_area
    if not 0 < low <= high <= 1:
        raise UserError(f"--crop-area must be two shares, above 0, at most 1 and in order, got {low} {high}")
    if config.profile is not None and not re.fullmatch(r"\d+:\d+", config.profile):
        raise UserError(f"--profile must be START:STOP in steps, such as 20:25, got {config.profile!r}")


def _check_shares(config: TrainConfig, devices: int) -> None:
    """Each device computes an equal share in equal parts, and mixing pairs neighbours within a part."""
    multiple = devices * config.accumulation_steps * (2 if config.mixup or config.cutmix else 1)
    if config.batch_size % multiple:
        pairs = ", in pairs to mix" if config.mixup or config.cutmix else ""
        raise UserError(
            f"a batch of {config.batch_size} does not divide over {devices} devices with {config.accumulation_steps} "
            f"parts each{pairs}: make --batch-size a multiple of {multiple}"
        )
