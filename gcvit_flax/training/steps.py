"""The training and evaluation steps, which `pmapped` runs on all devices.

Every device computes the same update from summed gradients, so the state goes in and comes out replicated and is never
stacked. Everything random is a function of the seed, the step, and the example's place in the global batch
(augmentation, drop path) or the device (dropout); nothing random is stored. Batches are those of one
process; sums are over the devices of all processes.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training import train_state

from gcvit_flax.data.preprocess import normalize
from gcvit_flax.inference import apply_in_parts
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.model.init import abstract_params
from gcvit_flax.training.accumulation import sum_over_parts
from gcvit_flax.training.augment.augment import augment
from gcvit_flax.training.augment.mixing import mix
from gcvit_flax.training.ema import update_average
from gcvit_flax.training.losses import top_k_correct, training_losses, unmixed_targets
from gcvit_flax.training.optim import Params, global_norm, learning_rate_scales, make_optimizer
from gcvit_flax.training.pmapped import AXIS, PmappedFunction
from gcvit_flax.training.train_config import TrainConfig

Batch = dict[str, Any]


class TrainState(train_state.TrainState):
    """Step, parameters and optimizer state, and the parameters' moving average if one is kept: trees with names."""

    ema_params: Params | None = None

    @property
    def evaluated(self) -> dict[str, Params]:
        """What is evaluated, by its name in metrics.jsonl: the parameters and, if there is one, their average."""
        return {"val": self.params} | ({} if self.ema_params is None else {"ema_val": self.ema_params})


def create_train_state(model: GCViT, params: Params, config: TrainConfig) -> TrainState:
    """The initial state, at step 0, for `params`."""
    tx = make_optimizer(config, params, model.config.depths)

    @jax.jit
    def create(params: Params) -> TrainState:
        ema_params = params if config.ema_decay else None
        # Flax declares a FrozenDict and takes any tree.
        return TrainState(jnp.int32(0), model.apply, params, tx, tx.init(params), ema_params)  # type: ignore[arg-type]

    return create(params)


def abstract_train_state(model: GCViT, config: TrainConfig) -> TrainState:
    """The shapes and dtypes of `create_train_state`, without computing any."""
    return jax.eval_shape(lambda params: create_train_state(model, params, config), abstract_params(model))


def make_train_step(
    model: GCViT,
    config: TrainConfig,
    devices: list[jax.Device],
    *,
    mix_off_step: int | None = None,
    ema_start_step: int = 0,
) -> PmappedFunction:
    """A pmapped (state, batch, key, learning_rate) -> (state, metrics); the state is donated.

    Batch arrays are (devices, b, ...); `key` is the run's, the same at every step. Metrics are means over the global
    batch, train_loss and train_top1, and the norms of the gradients and of the new parameters. It is lowered for any
    `devices`, also those of `jax.experimental.topologies`. After `mix_off_step` steps nothing is mixed, and the average
    is of the parameters after `ema_start_step`.
    """

    def train_step(
        state: TrainState, batch: Batch, key: jax.Array, learning_rate: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(key, state.step)
        total = batch["label"].size * jax.lax.axis_size(AXIS)
        mixes = True if mix_off_step is None else state.step < mix_off_step
        gradients = functools.partial(_gradients, state, model, config, key, total, mixes)
        if config.accumulation_steps == 1:
            results = gradients(batch, 0)
        else:
            results = sum_over_parts(gradients, batch, config.accumulation_steps)
        grads, metrics = jax.lax.psum(results, AXIS)
        state = _update(state, grads, learning_rate, config.ema_decay, ema_start_step)
        return state, metrics | {"grad_norm": global_norm(grads), "param_norm": global_norm(state.params)}

    return PmappedFunction(train_step, devices, in_axes=(None, 0, None, None), out_axes=None, donate_argnums=0)


def _gradients(
    state: TrainState,
    model: GCViT,
    config: TrainConfig,
    key: jax.Array,
    total: int,
    mixes: jax.Array | bool,
    batch: Batch,
    part: int,
) -> tuple[Params, dict[str, jax.Array]]:
    """Gradients and metrics of one device's `batch`, the `part`-th that it computes in this step.

    They are sums over its examples divided by `total`, the size of the global batch, so that they only need adding up.
    """
    augment_key, mix_key, drop_path_key, dropout_key = jax.random.split(key, 4)
    images = augment(augment_key, batch["image"], batch["index"], model.preprocessing, config)
    targets = unmixed_targets(batch["label"], model.config.num_classes, config)
    images, targets = mix(mix_key, images, targets, config.mixup, config.cutmix, mixes)
    dropout_key = jax.random.fold_in(jax.random.fold_in(dropout_key, jax.lax.axis_index(AXIS)), part)
    rngs = {"drop_path": drop_path_key, "dropout": dropout_key}
    scales = learning_rate_scales(state.params, model.config.depths, config)

    train = not config.head_only  # Nothing random below a head that is trained alone; it has no dropout itself.

    def loss_fn(params: Params) -> tuple[jax.Array, jax.Array]:
        # Without a gradient to what is not trained, XLA leaves its backward pass out.
        params = jax.tree.map(lambda x, scale: x if scale else jax.lax.stop_gradient(x), params, scales)
        logits = state.apply_fn({"params": params}, images, train=train, example_index=batch["index"], rngs=rngs)
        return training_losses(logits, targets, config).sum() / total, logits

    (loss, logits), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    return grads, {"train_loss": loss, "train_top1": top_k_correct(logits, targets.argmax(-1), 1).sum() / total}


def _update(
    state: TrainState, grads: Params, learning_rate: jax.Array, ema_decay: float | None, ema_start_step: int
) -> TrainState:
    updates, opt_state = state.tx.update(grads, state.opt_state, state.params)
    params = jax.tree.map(lambda param, update: param - learning_rate * update, state.params, updates)
    state = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
    if ema_decay:
        count = jnp.maximum(state.step - ema_start_step, 1)  # Of one update, the average is the parameters.
        average = update_average(state.ema_params, params, ema_decay, count)
        state = state.replace(ema_params=average)
    return state


def make_eval_step(
    model: GCViT, devices: list[jax.Device], confusion: bool = False, classes: np.ndarray | None = None
) -> PmappedFunction:
    """A pmapped (params, batch) -> sums over the unmasked examples: loss, top1, top5 and count.

    Labels are positions in `classes` (n,), the model's indices, whose logits alone are compared; by default all. With
    `confusion`, also the confusion matrix, int32 (classes, classes): rows are true classes, columns predictions.
    """

    def eval_step(params: Params, batch: Batch) -> dict[str, jax.Array]:
        images = normalize(batch["image"], model.preprocessing)
        logits = apply_in_parts(model, {"params": params}, images, devices[0])
        if classes is not None:
            logits = logits[:, classes]
        mask, labels = batch["mask"], batch["label"]
        sums = {
            "loss": optax.softmax_cross_entropy_with_integer_labels(logits, labels) * mask,
            "top1": top_k_correct(logits, labels, 1) & mask,
            "top5": top_k_correct(logits, labels, 5) & mask,
            "count": mask,
        }
        sums = jax.tree.map(lambda values: values.sum(), sums)
        if confusion:
            empty = jnp.zeros((logits.shape[-1], logits.shape[-1]), jnp.int32)
            sums["confusion"] = empty.at[labels, logits.argmax(-1)].add(mask)
        return jax.lax.psum(sums, AXIS)

    return PmappedFunction(eval_step, devices, in_axes=(None, 0), out_axes=None)


def make_sync_check(devices: list[jax.Device]) -> Callable[[Any], bool]:
    """A function of a tree: whether all devices of all processes hold the same bits of it."""

    def sync_check(tree: Any, _: jax.Array) -> jax.Array:
        words = [jax.lax.bitcast_convert_type(x, jnp.uint32).ravel() for x in jax.tree.leaves(tree)]
        # Weighted by position, so that swapped values differ; unsigned sums wrap around, alike in any order.
        weights = [jnp.arange(x.size, dtype=jnp.uint32) * 2 + 1 for x in words]
        checksums = [(x * weight).sum() * (2 * i + 1) for i, (x, weight) in enumerate(zip(words, weights, strict=True))]
        checksum = sum(checksums)
        return jax.lax.pmin(checksum, AXIS) == jax.lax.pmax(checksum, AXIS)

    mapped = PmappedFunction(sync_check, devices, in_axes=(None, 0), out_axes=None)
    return lambda tree: bool(mapped(tree, np.zeros(len(devices))))  # pmap needs at least one mapped argument.
