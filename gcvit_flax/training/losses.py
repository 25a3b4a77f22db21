"""Targets, and which answers are correct: one value per example."""

import jax
import jax.numpy as jnp
import optax


def smoothed_targets(labels: jax.Array, num_classes: int, smoothing: float) -> jax.Array:
    """Probabilities (b, classes) for int labels (b,), a share `smoothing` spread over all classes."""
    return optax.smooth_labels(jax.nn.one_hot(labels, num_classes), smoothing)


def top_k_correct(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
    """Whether the label (b,) is among the k largest logits (b, classes); of equal logits the earlier class leads.

    Where the label's logit is NaN it never is.
    """
    label_logit = jnp.take_along_axis(logits, labels[:, None], -1)
    earlier = jnp.arange(logits.shape[-1]) < labels[:, None]
    ahead = (logits > label_logit) | ((logits == label_logit) & earlier)
    return (ahead.sum(-1) < k) & ~jnp.isnan(label_logit[:, 0])
