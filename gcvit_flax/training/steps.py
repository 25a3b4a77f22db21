"""The training and evaluation steps, and the one place where pmap spreads them over devices.

Arrays of the state stay unstacked: every device computes the same update from averaged gradients, so the state goes
in and comes out replicated. Everything random is a function of the seed, the step, and the example's place in the
global batch (augmentation, drop path) or the device (dropout); nothing random is stored.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax.training.train_state import TrainState

from gcvit_flax.images import normalize
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.training.augment import augment
from gcvit_flax.training.config import TrainConfig
from gcvit_flax.training.losses import in_top, smoothed_cross_entropy
from gcvit_flax.training.optim import make_optimizer

AXIS = "batch"


def replicate(tree, devices: list):
    """Puts a copy of `tree` on every device, in the layout that the steps give back: one compilation serves all."""
    mesh = jax.sharding.Mesh(np.array(devices), (AXIS,))
    return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def shard(batch: dict[str, np.ndarray], devices: list) -> dict[str, np.ndarray]:
    """Splits a host's batch (b, ...) over its devices: (devices, b / devices, ...)."""
    return {name: rearrange(x, "(devices b) ... -> devices b ...", devices=len(devices)) for name, x in batch.items()}


def start_state(model: GCViT, params: dict, config: TrainConfig, devices: list) -> TrainState:
    """The state at step 0, on every device."""
    tx = make_optimizer(config.weight_decay, config.clip_norm)
    state = TrainState(jnp.int32(0), model.apply, params, tx, opt_state=jax.jit(tx.init)(params))
    return replicate(state, devices)


def make_train_step(model: GCViT, config: TrainConfig, devices: list) -> Callable:
    """A pmapped (state, batch, key, learning_rate) -> (state, metrics), the state donated.

    Batch arrays are (devices, b, ...); `key` is the run's, the same at every step. metrics are means over the global
    batch: train_loss and train_top1.
    """

    def train_step(state: TrainState, batch, key, learning_rate):
        augment_key, drop_path_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step), 3)
        images = augment(
            augment_key, batch["image"], batch["index"], model.preprocessing, config.flip, config.color_jitter
        )
        rngs = {"drop_path": drop_path_key, "dropout": jax.random.fold_in(dropout_key, jax.lax.axis_index(AXIS))}

        def loss_fn(params):
            logits = state.apply_fn({"params": params}, images, train=True, example_index=batch["index"], rngs=rngs)
            return smoothed_cross_entropy(logits, batch["label"], config.label_smoothing).mean(), logits

        (loss, logits), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        top1 = in_top(logits, batch["label"], 1).mean()
        grads, loss, top1 = jax.lax.pmean((grads, loss, top1), AXIS)
        return _update(state, grads, learning_rate), {"train_loss": loss, "train_top1": top1}

    in_axes = (None, 0, None, None)
    return jax.pmap(train_step, AXIS, in_axes=in_axes, out_axes=(None, None), donate_argnums=0, devices=devices)


def _update(state: TrainState, grads, learning_rate) -> TrainState:
    updates, opt_state = state.tx.update(grads, state.opt_state, state.params)
    params = jax.tree.map(lambda param, update: param - learning_rate * update, state.params, updates)
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state)


def make_eval_step(model: GCViT, devices: list) -> Callable:
    """A pmapped (params, batch) -> sums over the unmasked examples: loss, top1, top5 and count."""

    def eval_step(params, batch):
        logits = model.apply({"params": params}, normalize(batch["image"], model.preprocessing))
        mask, labels = batch["mask"], batch["label"]
        sums = {
            "loss": smoothed_cross_entropy(logits, labels) * mask,
            "top1": in_top(logits, labels, 1) & mask,
            "top5": in_top(logits, labels, 5) & mask,
            "count": mask,
        }
        return jax.lax.psum(jax.tree.map(lambda values: values.sum(), sums), AXIS)

    return jax.pmap(eval_step, AXIS, in_axes=(None, 0), out_axes=None, devices=devices)
