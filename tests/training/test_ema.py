import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gcvit_flax.training.ema import ema_rate, update_average


def test_the_moving_average_has_no_bias_to_the_start():
    """optax.ema corrects the bias when it is read, ours as it goes: the same average, and no trace of the start."""
    values = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    theirs = optax.ema(0.9, debias=True)
    state, average = theirs.init(jnp.zeros(3)), jnp.full(3, 10.0)
    for count, value in enumerate(values, start=1):
        expected, state = theirs.update(jnp.asarray(value), state)
        average = update_average(average, jnp.asarray(value), 0.9, jnp.int32(count))
        np.testing.assert_allclose(average, expected, rtol=1e-4, atol=1e-5)
    assert float(ema_rate(0.9998, jnp.int32(1))) == pytest.approx(1, abs=1e-6)
    assert float(ema_rate(0.9998, jnp.int32(10**7))) == pytest.approx(2e-4, rel=1e-5)
