"""The exponential moving average of the parameters."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax


def update_average(average: Any, params: Any, decay: float, count: jax.Array) -> Any:
    """The moving average of parameter trees after `count` updates, of which there is at least one; `params` is the
    newest.
    """
    return optax.incremental_update(params, average, ema_rate(decay, count))


def ema_rate(decay: float, count: jax.Array) -> jax.Array:
    """The share of the newest parameters in their moving average after `count` updates, corrected for its start.

    It makes the average over updates 1..count weigh update i in proportion to decay^(count - i), as Adam's corrected
    moments do (Kingma & Ba, 2015, section 3), instead of keeping decay^count of the initial parameters.
    """
    return (1 - decay) / -jnp.expm1(count * math.log(decay))
