"""A training run from start to finish: everything that is decided before the first step, in order."""

import contextlib
import dataclasses
import signal
from typing import Any

from etils import epath

import gcvit_flax
from gcvit_flax import storage
from gcvit_flax.data.bands import RGB
from gcvit_flax.data.channel_statistics import measure_channels
from gcvit_flax.data.datasets import open_data
from gcvit_flax.data.sources import Dataset
from gcvit_flax.data.spec import parse_spec
from gcvit_flax.devices import choose_devices, simulate_devices
from gcvit_flax.errors import UserError
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.training import processes
from gcvit_flax.training.checkpoints import Checkpoints
from gcvit_flax.training.loop import TrainingRun
from gcvit_flax.training.peer_watch import PeerWatch
from gcvit_flax.training.plan import batch_unit, resolve_defaults
from gcvit_flax.training.preemption import StopSignals
from gcvit_flax.training.report.weights_and_biases import check_installed
from gcvit_flax.training.setup import build_model, rebuild_model
from gcvit_flax.training.starts import record_start
from gcvit_flax.training.train_config import FREE_ON_RESUME, TrainConfig
from gcvit_flax.training.workdir import (
    CHECKPOINTS_NAME,
    check_shared,
    locked,
    run_to_resume,
    start_afresh,
    write_run_config,
)


def train(config: TrainConfig) -> None:
    """Starts or resumes the run in `config.workdir`, trains to its end or a signal, and says where the results are.

    Raises:
      KeyboardInterrupt: Ctrl-C stopped the run, which is saved.
      UserError: (a ValueError) options, data or a workdir that do not fit, or a loss that is not finite.
    """
    spec = config.data_spec
    if config.wandb:
        check_installed()
    simulate_devices(config.devices)
    processes.join(config.coordinator, config.num_processes, config.process_id)
    with contextlib.ExitStack() as stack:
        watch = stack.enter_context(PeerWatch())
        with processes.raising_together(), storage.explained(config.workdir):
            workdir = storage.absolute(epath.Path(config.workdir).expanduser())  # Orbax requires absolute paths.
            if processes.is_first():
                stack.enter_context(locked(workdir))
        with storage.explained(workdir):
            check_shared(workdir)
        with processes.raising_together(), storage.explained(workdir):
            data = open_data(spec, config.val_fraction, subset=config.subset)
            run_config = _make_run_config(config, data)
            saved = run_to_resume(workdir, run_config, FREE_ON_RESUME, config.resume)
            run = _make_run(workdir, config, data, saved)
        shared = {name: value for name, value in run_config.items() if name != "process_id"}
        processes.check_equal("options, data or workdirs", [shared, saved is None])
        # Nothing of an earlier run is removed before everything is checked.
        with processes.raising_together(), storage.explained(workdir):
            if processes.is_first():
                if saved is None:
                    start_afresh(workdir)
                write_run_config(workdir, run_config | _model_settings(run.model))
        stack.enter_context(watch.exiting_on_error())
        stack.enter_context(storage.explained(workdir))
        signals = stack.enter_context(StopSignals())
        checkpoints = stack.enter_context(Checkpoints(workdir / CHECKPOINTS_NAME, config.keep))
        processes.check_equal("checkpoints", checkpoints.latest_step)
        if processes.from_first(run.is_done(checkpoints)):
            if processes.is_first():
                print(
                    f"{config.workdir}: this run is done, at step {checkpoints.latest_step}, and its model is in "
                    f"{config.workdir}/model; use another --workdir for another run, or a higher --max-steps to go "
                    "on if that ended it (--no-resume would delete this one)"
                )
        else:
            if processes.is_first():
                record_start(workdir, checkpoints.latest_step or 0, run.devices)
            run.execute(checkpoints, signals)
        processes.wait_for_all("the run has ended")
    if signals.received == signal.SIGINT:
        raise KeyboardInterrupt


def _make_run_config(config: TrainConfig, data: Dataset) -> dict[str, Any]:
    """The options and a summary of the data: stored in config.json, compared on resume and between processes."""
    return {
        **dataclasses.asdict(config),
        "data_parts": str(parse_spec(config.data_spec)[1]),
        "class_names": list(data.class_names),
        "training_examples": len(data.train),
        "validation_examples": len(data.validation),
    }


def _make_run(workdir: epath.Path, config: TrainConfig, data: Dataset, saved: dict[str, Any] | None) -> TrainingRun:
    """A new run, or the resumed one, rebuilt from its saved config.json."""
    if saved is None:
        _check_init_from_lies_elsewhere(config, workdir)
        model = build_model(config, data.class_names)
        if config.in_channels not in (None, RGB) and config.mean is None:
            model = model.clone(preprocessing=measure_channels(data.train, model.preprocessing))
    else:
        model = rebuild_model(config, saved, workdir)
    config = resolve_defaults(config, model.config)
    devices = choose_devices(config.global_batch, config.devices, batch_unit(config))
    return TrainingRun(config, data, model, devices, workdir)


def _model_settings(model: GCViT) -> dict[str, Any]:
    return {
        "model": dataclasses.asdict(model.config),
        "preprocessing": dataclasses.asdict(model.preprocessing),
        "gcvit_flax_version": gcvit_flax.__version__,
    }


def _check_init_from_lies_elsewhere(config: TrainConfig, workdir: epath.Path) -> None:
    if config.init_from and workdir in epath.Path(config.init_from).expanduser().absolute().parents:
        raise UserError(
            f"--init-from {config.init_from} lies in the workdir {config.workdir}, which is to be replaced: "
            "choose another --workdir"
        )
