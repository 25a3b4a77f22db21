"""The relative position bias: from a table with one row per offset to a bias per pair of tokens (paper, equation 5)."""

import functools
import math
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from gcvit_flax.config import GCViTConfig, Size

# Of the biases of one level, as fused parameters. gcvit_large_512's third level, with windows of 32 x 32, would have
# 1.9 GB of them: the file of an exported program holds 2 GiB, and all parameters together take 0.8.
MOST_EXPANDED_BYTES = 2**30

Table = TypeVar("Table", jax.Array, np.ndarray)


def is_expanded(config: GCViTConfig, level: int) -> bool:
    """Whether fused parameters hold the biases (h, T, T) of this level, not the tables that they are read from."""
    tokens = math.prod(config.window_size[level])
    return config.depths[level] * config.num_heads[level] * tokens**2 * 4 <= MOST_EXPANDED_BYTES


@functools.lru_cache(maxsize=64)
def relative_position_index(window: Size) -> np.ndarray:
    """The row of the bias table for each pair of tokens: int32 (T, T), (dy + wh-1) * (2 ww-1) + (dx + ww-1).

    (dy, dx) is the query's position minus the key's.
    """
    y, x = np.indices(window).reshape(2, -1)
    rows = y[:, None] - y + window[0] - 1
    columns = x[:, None] - x + window[1] - 1
    index = (rows * (2 * window[1] - 1) + columns).astype(np.int32)
    index.flags.writeable = False  # It is shared by every caller.
    return index


def relative_position_bias(table: Table, window: Size, layout: Literal["per_head", "flattened"]) -> Table:
    """The bias added to the attention logits, (h, T, T), or (1, T, T) where all heads share one.

    `table` is ((2 wh-1)(2 ww-1), h). "per_head" reads a row for each pair of tokens; "flattened" is what the Keras
    3 example computes, which takes the same index from the flattened table.
    """
    index = relative_position_index(window)
    if layout == "flattened":
        return table.reshape(-1)[index][None]
    return rearrange(table[index], "q k h -> h q k")


def relative_position_bias_by_products(
    table: jax.Array, window: Size, layout: Literal["per_head", "flattened"]
) -> jax.Array:
    """`relative_position_bias` by two matrix products with zeros and ones, as TPUs read single elements one by one."""
    (height, width), (rows, columns) = window, (2 * side - 1 for side in window)
    if layout == "flattened":
        table = table.reshape(-1)[: rows * columns, None]
    table = rearrange(table, "(r c) h -> h r c", r=rows)
    # [iI, j] is 1 where a query at i and a key at I, in a row or column of the window, have the j-th offset.
    by_row, by_column = (
        np.eye(2 * side - 1, dtype=table.dtype)[np.subtract.outer(*[np.arange(side)] * 2).reshape(-1) + side - 1]
        for side in window
    )
    # All pairs of columns lie along the lanes: for 14 x 14 windows 196, not the 14 of one column's pairs, which take
    # more than twice the program and the cycles (docs/accelerators.md).
    precision = jax.lax.Precision.HIGHEST
    bias = jnp.einsum(
        "yr,hrx->hyx", by_row, jnp.einsum("hrc,xc->hrx", table, by_column, precision=precision), precision=precision
    )
    return rearrange(bias, "h (y Y) (x X) -> h (y x) (Y X)", y=height, x=width)
