"""Losses and counts of correct answers, one value an example."""

import jax
import jax.numpy as jnp
import optax


def smoothed_cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Cross-entropy (b,) of logits (b, classes) and int labels (b,), a share `smoothing` spread over all classes."""
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
    return optax.softmax_cross_entropy(logits, targets)


def in_top(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
    """Whether the label (b,) is among the k largest logits (b, classes); of equal logits the earlier class leads."""
    label_logit = jnp.take_along_axis(logits, labels[:, None], -1)
    earlier = jnp.arange(logits.shape[-1]) < labels[:, None]
    ahead = (logits > label_logit) | ((logits == label_logit) & earlier)
    return ahead.sum(-1) < k
