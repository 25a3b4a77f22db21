"""k-nearest neighbors on features, weighted as DINO does (Caron et al., 2021, after Wu et al., 2018)."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gcvit_flax.features.labeled import LabeledFeatures

_TEMPERATURE = 0.07  # That of both papers.
_QUERIES_AT_A_TIME = 256


def nearest_neighbors_top1(
    train: LabeledFeatures,
    queries: LabeledFeatures,
    neighbors: Sequence[int],
    num_classes: int,
) -> dict[int, float]:
    """{k: top-1 accuracy (0..1)} on `queries` for each k of `neighbors`, at most the number of training images.

    Each of the k training images of the highest cosine similarity votes
    for its class with the weight exp(similarity / 0.07).
    """
    train_values, train_labels = jnp.asarray(_normalized(train.values)), jnp.asarray(train.labels)
    values, labels = _normalized(queries.values), queries.labels
    correct = np.zeros(len(neighbors))
    for start in range(0, len(labels), _QUERIES_AT_A_TIME):
        chunk = slice(start, start + _QUERIES_AT_A_TIME)
        predicted = _predict(train_values, train_labels, values[chunk], tuple(neighbors), num_classes)
        correct += (np.asarray(predicted) == labels[chunk]).sum(1)
    return dict(zip(neighbors, (correct / len(labels)).tolist(), strict=True))


@functools.partial(jax.jit, static_argnums=(3, 4))
def _predict(
    train_values: jax.Array, train_labels: jax.Array, queries: jax.Array, neighbors: tuple[int, ...], num_classes: int
) -> jax.Array:
    """The class of each of `queries` (q, C) for each number of `neighbors`, int (len(neighbors), q)."""
    similarity, nearest = jax.lax.top_k(jnp.dot(queries, train_values.T, precision="highest"), max(neighbors))
    # Relative to the nearest, so that no exponential overflows.
    weights = jnp.exp((similarity - similarity[:, :1]) / _TEMPERATURE)
    classes = train_labels[nearest]  # (q, k)
    rows = jnp.arange(len(queries))[:, None]

    def vote(k: int) -> jax.Array:
        votes = jnp.zeros((len(queries), num_classes)).at[rows, classes[:, :k]].add(weights[:, :k])
        return votes.argmax(-1)

    return jnp.stack([vote(k) for k in neighbors])


def _normalized(values: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays."""
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), np.finfo(np.float32).tiny)
