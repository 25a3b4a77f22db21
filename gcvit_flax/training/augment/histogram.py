"""How often each value occurs in each channel of an image."""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from gcvit_flax.training.augment.lane_gather import LANES, ROWS, pad


def histogram(planes: jax.Array) -> jax.Array:
    """How often each value occurs in each channel of uint8 planes (3, H, W): int32 (3, 256)."""
    return jax.lax.platform_dependent(planes, tpu=histogram_by_products, default=histogram_by_scatter)


def histogram_by_scatter(planes: jax.Array) -> jax.Array:
    """`histogram` for CPUs and GPUs."""
    # One index instead of two halves the time of the scatter on a CPU.
    indices = planes.astype(jnp.int32) + 256 * jnp.arange(3)[:, None, None]
    return jnp.zeros(3 * 256, jnp.int32).at[indices].add(1).reshape(3, 256)


def histogram_by_products(planes: jax.Array, interpret: bool = False) -> jax.Array:
    """`histogram` for TPUs, which scatter one value at a time.

    A product of one-hot codes counts the pairs of a value's high and low half byte. It does so for all pairs of eight
    rows at a time, of which the pairs of a row with itself are used, because the matrix unit has 128 columns.
    """
    padded = pad(planes.astype(jnp.int32), ROWS, LANES, -1)  # -1 has no high half byte.
    pairs = pl.pallas_call(
        _kernel,
        jax.ShapeDtypeStruct((3, 128, 128), jnp.float32),
        grid=(3, padded.shape[1] // ROWS),
        in_specs=[pl.BlockSpec((None, ROWS, padded.shape[2]), lambda channel, row: (channel, row, 0))],
        out_specs=pl.BlockSpec((None, 128, 128), lambda channel, _: (channel, 0, 0)),
        interpret=interpret,
        name="histogram",
    )(padded)
    counts = jnp.einsum("chilj,ij->chl", pairs.reshape(3, 16, 8, 16, 8), jnp.eye(8))
    return counts.astype(jnp.int32).reshape(3, 256)


def _kernel(values_ref: jax.Array, pairs_ref: jax.Array) -> None:
    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        pairs_ref[...] = jnp.zeros_like(pairs_ref)

    for row in range(0, ROWS, 8):
        values = values_ref[row : row + 8]
        high, low = (
            jnp.concatenate([(half == i).astype(jnp.float32) for i in range(16)]).astype(jnp.bfloat16)  # (16 8, W)
            for half in (values >> 4, values & 15)
        )
        pairs_ref[...] += jax.lax.dot_general(
            high, low, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
        )
