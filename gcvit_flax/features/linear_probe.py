"""A linear classifier on features: logistic regression with L2 regularization, by L-BFGS."""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gcvit_flax.features.labeled import LabeledFeatures

_MAX_STEPS = 300
_TOLERANCE = 1e-4  # Of the gradient's norm, relative to that at zero weights.

Weights = dict[str, jax.Array]


def linear_probe_top1(
    train: LabeledFeatures,
    queries: LabeledFeatures,
    regularizations: Sequence[float],
    num_classes: int,
) -> dict[float, float]:
    """{L2: top-1 accuracy (0..1)} on `queries` of a classifier fitted to `train` with each of `regularizations`.

    Features are standardized by the mean and deviation of `train`. Each fit starts from the one before: give strong
    regularization first.
    """
    mean, deviation = train.values.mean(0), train.values.std(0)
    deviation = np.where(deviation > 0, deviation, 1)
    values = (queries.values - mean) / deviation
    fits = fit_logistic((train.values - mean) / deviation, train.labels, regularizations, num_classes)
    top1 = ((np.asarray(_logits(weights, values).argmax(-1)) == queries.labels).mean() for weights in fits)
    return {l2: float(accuracy) for l2, accuracy in zip(regularizations, top1, strict=True)}


def fit_logistic(
    values: np.ndarray, labels: np.ndarray, regularizations: Sequence[float], num_classes: int
) -> Iterator[Weights]:
    """Yields the minimum of mean cross-entropy + L2 / 2 |kernel|^2 for each L2, each starting from the one before.

    Weights are kernel (C, num_classes) and bias (num_classes,), which is not regularized.
    """
    weights = {"kernel": jnp.zeros((values.shape[1], num_classes)), "bias": jnp.zeros(num_classes)}
    data = jnp.asarray(values, jnp.float32), jnp.asarray(labels)
    tolerance = _TOLERANCE * optax.tree.norm(jax.grad(_loss)(weights, *data, 0.0))
    for l2 in regularizations:
        weights = _minimize(weights, *data, l2, tolerance)
        yield weights


@jax.jit
def _minimize(
    weights: Weights, values: jax.Array, labels: jax.Array, l2: jax.Array | float, tolerance: jax.Array
) -> Weights:
    solver = optax.lbfgs()

    def loss(weights: Weights) -> jax.Array:
        return _loss(weights, values, labels, l2)

    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry: tuple[Weights, optax.OptState]) -> tuple[Weights, optax.OptState]:
        weights, state = carry
        value, grad = value_and_grad(weights, state=state)
        updates, state = solver.update(grad, state, weights, value=value, grad=grad, value_fn=loss)
        return optax.apply_updates(weights, updates), state

    def unfinished(carry: tuple[Weights, optax.OptState]) -> jax.Array:
        count, grad = optax.tree.get(carry[1], "count"), optax.tree.get(carry[1], "grad")
        return (count == 0) | ((count < _MAX_STEPS) & (optax.tree.norm(grad) > tolerance))

    return jax.lax.while_loop(unfinished, step, (weights, solver.init(weights)))[0]


def _loss(weights: Weights, values: jax.Array, labels: jax.Array, l2: jax.Array | float) -> jax.Array:
    losses = optax.softmax_cross_entropy_with_integer_labels(_logits(weights, values), labels)
    return losses.mean() + l2 / 2 * (weights["kernel"] ** 2).sum()


def _logits(weights: Weights, values: jax.Array | np.ndarray) -> jax.Array:
    return jnp.dot(values, weights["kernel"], precision="highest") + weights["bias"]
