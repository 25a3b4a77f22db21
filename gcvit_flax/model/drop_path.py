"""Drop path, or stochastic depth (Huang et al., 2016): residual branches that are dropped at random in training."""

import jax
import jax.numpy as jnp
import numpy.typing as npt


def drop_path_scales(key: jax.Array, rates: npt.ArrayLike, example_index: jax.Array) -> jax.Array:
    """The scales of all residual branches: 0 or 1/(1 - rate) for each block, branch and example, (blocks, 2, B).

    All are drawn in one call from `key` and each example's index (B,) in the global batch, so the draw does not depend
    on how the batch is spread over devices. `rates` are the blocks' probabilities of dropping a branch.
    """
    drop_rates = jnp.asarray(rates)[:, None]

    def one_example(index: jax.Array) -> jax.Array:
        kept = jax.random.uniform(jax.random.fold_in(key, index), (len(drop_rates), 2)) >= drop_rates
        return kept / (1 - drop_rates)

    return jax.vmap(one_example, out_axes=-1)(example_index)
