"""Our side of the benchmarks: what the trainer has before its first step, and that step or a forward pass, compiled."""

import dataclasses
import importlib.metadata
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.processor import describe_processor
from gcvit_flax.devices import choose_devices, simulate_devices
from gcvit_flax.inference import Predictor
from gcvit_flax.model.gcvit import GCViT, create_model
from gcvit_flax.model.init import init_params
from gcvit_flax.training.plan import resolve_defaults
from gcvit_flax.training.pmapped import AXIS, replicate, shard
from gcvit_flax.training.presets import PRESETS
from gcvit_flax.training.report.timing import peak_memory
from gcvit_flax.training.setup import build_model, initial_params
from gcvit_flax.training.steps import TrainState, create_train_state, make_train_step
from gcvit_flax.training.train_config import TrainConfig

CLASSES = 1000
_MATRIX_SIDE = {"cpu": 2048, "gpu": 8192, "tpu": 8192}
_COPY_BYTES = 2**28


def start(config: TrainConfig, class_names: tuple[str, ...]) -> tuple[TrainConfig, GCViT, list, TrainState]:
    """What the trainer has before its first step: resolved options, model, devices and the state on all of them."""
    simulate_devices(config.devices)
    model = build_model(config, class_names)
    config = resolve_defaults(config, model.config)
    devices = choose_devices(config.batch_size, config.devices)
    return config, model, devices, replicate(create_train_state(model, initial_params(config, model), config), devices)


def machine() -> dict[str, Any]:
    """The devices of this process and the versions of the libraries, as a row of a table."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "jaxlib", "flax"))
    name, count = jax.local_devices()[0].device_kind, jax.local_device_count()
    return {"table": "machine", "device": name, "devices": count, "versions": versions}


def training_config(options, **network) -> TrainConfig:
    """The run whose step is measured: fine-tuning, `network` replacing options, with nothing done to the images."""
    plain = {"color_jitter": 0.0, "flip": False, "mixup": 0.0, "cutmix": 0.0, "random_erasing": 0.0}
    return dataclasses.replace(
        PRESETS["finetune"],
        **plain,
        variant=options.variant,
        image_size=options.image_size,
        batch_size=options.batch,
        dtype=options.dtype,
        devices=options.devices,
        remat=options.remat,
        **network,
    )


class Side:
    """A compiled forward pass or training step, and its cost; compiled in its first run.

    `network` replaces fields of the variant's configuration.
    """

    def __init__(self, options, **network):
        simulate_devices(options.devices)
        self._dtype = jnp.dtype(options.dtype)
        self._start = (self._inference if options.task == "infer" else self._training)(options, network)
        self.what = f"gcvit_flax, {len(self._devices)} x {jax.default_backend()}"

    def run(self, calls: int = 1) -> None:
        """Starts so many calls and waits for the last."""
        for _ in range(calls):
            results = self._start()
        jax.block_until_ready(results)

    def _inference(self, options, network):
        model = create_model(options.variant, image_size=options.image_size, dtype=self._dtype, **network)
        variables = {"params": init_params(model, jax.random.key(0))}
        images = np.random.default_rng(0).normal(size=(options.batch, options.image_size, options.image_size, 3))
        images = images.astype(np.float32)
        # Of the plain model: XLA counts the body of a loop only once.
        self.flops = lambda: jax.jit(model.apply).lower(variables, images).cost_analysis()["flops"]
        predictor = Predictor(model, variables)
        self._devices = predictor.devices(options.batch)
        images = _put(images, self._devices, "batch")
        return lambda: predictor(images)

    def _training(self, options, network):
        config = training_config(options, **network)
        config, model, self._devices, state = start(config, tuple(map(str, range(CLASSES))))
        arguments = (_random_batch(options.batch, model, self._devices), jax.random.key(0), np.float32(1e-4))
        program = None

        def step():
            nonlocal program, state
            program = program or make_train_step(model, config, self._devices).compile(state, *arguments)
            state, metrics = program(state, *arguments)
            return metrics

        self.flops = lambda: program.cost_analysis()["flops"] * len(self._devices)
        return step

    def peak_memory(self) -> float:
        """Peak memory in GiB."""
        return peak_memory(self._devices)

    def facts(self) -> dict[str, Any]:
        """The operations of a run, the machine, and what one large matrix product and one large copy reach on it."""
        device = jax.devices()[0]
        kind = describe_processor() if device.platform == "cpu" else device.device_kind
        machine = f"{kind}, JAX {jax.__version__}"
        return {"flops": self.flops(), "machine": machine, "ceilings": self._ceilings()}

    def _ceilings(self) -> dict[str, float]:
        side = _MATRIX_SIDE[jax.default_backend()]
        square = jnp.ones((side, side), self._dtype)
        product = _best_seconds(jax.jit(jnp.matmul), square, square)
        words = jnp.ones(_COPY_BYTES // 4, jnp.float32)
        copy = _best_seconds(jax.jit(lambda x: x + 1), words)
        return {
            "matmul_gflop_per_second": 2 * side**3 / product / 1e9,
            "copy_gb_per_second": 2 * _COPY_BYTES / copy / 1e9,
        }


def _best_seconds(function, *arguments) -> float:
    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        function(*arguments).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _random_batch(batch_size: int, model: GCViT, devices: list) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (batch_size, *model.preprocessing.image_size, 3), dtype=np.uint8),
        "label": rng.integers(0, model.config.num_classes, batch_size).astype(np.int32),
        "index": np.arange(batch_size, dtype=np.int32),
    }
    return _put(shard(batch, devices), devices, AXIS)


def _put(tree, devices: list, axis: str):
    """`tree` on the devices, split over them along its arrays' first axis, so that no call waits for its input."""
    mesh = jax.sharding.Mesh(np.array(devices), (axis,))
    return jax.block_until_ready(jax.device_put(tree, jax.NamedSharding(mesh, jax.P(axis))))
