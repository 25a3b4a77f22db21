"""Table look-ups on TPUs, by gathers within the 128 lanes of a vector register: XLA gathers one value at a time there."""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

LANES = 128
ROWS = 32  # Of an image, in one step of a kernel's grid: uint8 fills registers by 32 rows.


def pad(planes: jax.Array, rows: int, columns: int, value: int = 0) -> jax.Array:
    """Appends rows and columns of `value` to planes (..., H, W), up to multiples of `rows` and `columns`."""
    height, width = planes.shape[-2:]
    around = [(0, 0)] * (planes.ndim - 2) + [(0, -height % rows), (0, -width % columns)]
    return jnp.pad(planes, around, constant_values=value)


def take_lanes(values: jax.Array, columns: jax.Array) -> jax.Array:
    """values[r, columns[r, c]], of arrays whose rows are multiples of 128 values, within a kernel."""
    parts = []
    for start in range(0, columns.shape[1], LANES):
        part = columns[:, start : start + LANES]
        lanes, register = part & LANES - 1, part >> 7  # What `% LANES` and `// LANES` are.
        found = None
        for i in range(values.shape[1] // LANES):
            source = values[:, i * LANES : (i + 1) * LANES]
            taken = jnp.take_along_axis(source, lanes, 1, mode="promise_in_bounds")
            found = taken if found is None else jnp.where(register == i, taken, found)
        parts.append(found)
    return jnp.concatenate(parts, 1)


def look_up_in_lanes(planes: jax.Array, tables: jax.Array, interpret: bool = False) -> jax.Array:
    """tables[c, v] for each value v of channel c of uint8 planes (3, H, W); `tables` is uint8 (3, 256)."""
    channels, height, width = planes.shape
    padded = pad(planes, ROWS, LANES)
    block = pl.BlockSpec((None, ROWS, padded.shape[2]), lambda channel, row: (channel, row, 0))
    found = pl.pallas_call(
        _kernel,
        jax.ShapeDtypeStruct(padded.shape, jnp.uint8),
        grid=(channels, padded.shape[1] // ROWS),
        in_specs=[block, pl.BlockSpec((None, 1, 256), lambda channel, _: (channel, 0, 0))],
        out_specs=block,
        interpret=interpret,
        name="look_up",
    )(padded, tables.astype(jnp.int32)[:, None])
    return found[:, :height, :width]


def _kernel(values_ref: jax.Array, table_ref: jax.Array, out_ref: jax.Array) -> None:
    columns = values_ref[...].astype(jnp.int32)
    table = jnp.broadcast_to(table_ref[...], (columns.shape[0], 256))
    out_ref[...] = take_lanes(table, columns).astype(jnp.uint8)
