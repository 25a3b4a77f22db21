"""Targets, losses, and which answers are correct: one value per example."""

import jax
import jax.numpy as jnp
import optax

from gcvit_flax.training.train_config import TrainConfig


def unmixed_targets(labels: jax.Array, num_classes: int, config: TrainConfig) -> jax.Array:
    """Probabilities (b, classes) for int labels (b,), to be mixed for `training_losses`.

    Cross-entropy's are smoothed here; binary cross-entropy's are after mixing.
    """
    smoothing = config.label_smoothing if config.loss == "cross_entropy" else 0.0
    return optax.smooth_labels(jax.nn.one_hot(labels, num_classes), smoothing)


def training_losses(logits: jax.Array, targets: jax.Array, config: TrainConfig) -> jax.Array:
    """The loss (b,) of each example, for logits and mixed targets (b, classes).

    Binary cross-entropy is a mean over the classes. Every class that has a share of a mixed image is a target of 1,
    smoothed (Wightman et al., 2021, ResNet strikes back, section 3).
    """
    if config.loss == "cross_entropy":
        return optax.softmax_cross_entropy(logits, targets)
    present = optax.smooth_labels((targets > 0).astype(logits.dtype), config.label_smoothing)
    return optax.sigmoid_binary_cross_entropy(logits, present).mean(-1)


def top_k_correct(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
    """Whether the label (b,) is among the k largest logits (b, classes); of equal logits the earlier class leads.

    Where the label's logit is NaN it never is.
    """
    label_logit = jnp.take_along_axis(logits, labels[:, None], -1)
    earlier = jnp.arange(logits.shape[-1]) < labels[:, None]
    ahead = (logits > label_logit) | ((logits == label_logit) & earlier)
    return (ahead.sum(-1) < k) & ~jnp.isnan(label_logit[:, 0])
