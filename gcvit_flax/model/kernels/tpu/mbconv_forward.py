"""The forward pass of an MBConv residual as two kernels, before and after the gates, on maps (H, W, C, B).

A column is the (C, images) of a pixel: channels along the sublanes, images along the lanes. So a shift by a pixel moves
no data within registers.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from gcvit_flax.model.kernels.tpu.rows import normal_cdf_and_density, normalize, product
from gcvit_flax.model.kernels.tpu.strips import HALO, Strips, cost_of, make_strips, over_columns, run_strips
from gcvit_flax.model.kernels.tpu.tiles import Tree, whole_spec

PACKED = 16  # Channels of a whole register of bfloat16.


class MBConvWeights(NamedTuple):
    """Taps (9, C) and the norm's scale and bias (C,), None without a norm, in float32; the pointwise kernel (C, C)."""

    taps: jax.Array
    pointwise: jax.Array
    scale: jax.Array | None
    bias: jax.Array | None


@functools.partial(jax.jit, static_argnames=("epsilon",))
def depthwise(x: jax.Array, weights: MBConvWeights, epsilon: float) -> tuple[jax.Array, jax.Array]:
    """y = depthwise(norm(x)), of the type of x, and the sums of gelu(y) over the map, (C, B), in float32."""
    strips = make_strips(x, wide=4, narrow=4)
    inputs, specs = norm_inputs(strips, weights)
    inputs |= {"x": x, "taps": along_lanes(strips, weights.taps)}
    specs |= {"x": strips.halo_spec(), "taps": whole_spec(inputs["taps"])}

    def kernel(refs: Tree, outputs: Tree, scratch: Tree) -> None:
        row, ring = pl.program_id(2), scratch["ring"]

        @pl.when(row == 0)
        def _() -> None:
            ring[2] = jnp.zeros(ring.shape[1:], ring.dtype)

        def fill(column: Any, _: None) -> None:
            x = strips.load(refs["x"], column).astype(jnp.float32)
            ring[row % 3, column] = strips.mask(row, column, apply_norm(refs, x, epsilon)[0])

        over_columns(0, strips.columns + HALO, fill)
        pl.when(row > 0)(lambda: _convolve(strips, refs, outputs, ring, row))

    outputs, output_specs = {"y": jax.ShapeDtypeStruct(x.shape, x.dtype)}, {"y": strips.spec(lag=1)}
    sums, scratch = {"sums": (strips.channels, strips.images)}, {"ring": ring_shape(strips)}
    results = run_strips(
        kernel, strips, 1, inputs, specs, outputs, output_specs, sums, scratch, cost_of(x, 0, 1, 2), "mbconv_depthwise"
    )
    return results["y"], over_images(results["sums"].sum(1))


def _convolve(strips: Strips, refs: Tree, outputs: Tree, ring: Any, row: Any) -> None:
    """Writes the row before `row`, the last in the ring."""
    for start in range(0, strips.channels, PACKED):
        channels = slice(start, start + PACKED)
        taps = refs["taps"][:, channels]

        def convolve(column: Any, total: jax.Array, channels: slice = channels, taps: jax.Array = taps) -> jax.Array:
            y = sum(near * tap for near, tap in zip(neighbors(ring, row, column, channels), taps, strict=True))
            outputs["y"][0, column, channels] = y.astype(outputs["y"].dtype)
            return total + y * normal_cdf_and_density(y)[0]

        outputs["sums"][channels] += over_columns(0, strips.columns, convolve, jnp.zeros(taps.shape[1:]))


@functools.partial(jax.jit, static_argnames=("epsilon",))
def pointwise(x: jax.Array, y: jax.Array, gate: jax.Array, weights: MBConvWeights, epsilon: float) -> jax.Array:
    """norm(x) + gelu(y) * gate @ pointwise, with gates (C, B) in float32."""
    strips = make_strips(x, wide=1, narrow=6)
    inputs, specs = norm_inputs(strips, weights)
    inputs |= {"x": x, "y": y, "gate": gate, "pointwise": weights.pointwise}
    specs |= {"x": strips.spec(), "y": strips.spec(), "gate": strips.image_spec()}
    specs["pointwise"] = whole_spec(weights.pointwise)

    def kernel(refs: Tree, outputs: Tree, _: Tree) -> None:
        def write(column: Any, _: None) -> None:
            x, y = (refs[name][0, column].astype(jnp.float32) for name in ("x", "y"))
            gated = (y * normal_cdf_and_density(y)[0] * refs["gate"][...]).astype(refs["pointwise"].dtype)
            z = apply_norm(refs, x, epsilon)[0] + product("io,ib->ob", refs["pointwise"][...], gated)
            outputs["z"][0, column] = z.astype(outputs["z"].dtype)

        over_columns(0, strips.columns, write)

    outputs, output_specs = {"z": jax.ShapeDtypeStruct(x.shape, x.dtype)}, {"z": strips.spec()}
    return run_strips(
        kernel, strips, 0, inputs, specs, outputs, output_specs, {}, {}, cost_of(x, 1, 0, 3), "mbconv_pointwise"
    )["z"]


def norm_inputs(strips: Strips, weights: MBConvWeights) -> tuple[Tree, Tree]:
    """The norm's inputs of a kernel and their blocks."""
    if weights.scale is None or weights.bias is None:
        return {}, {}
    inputs = {"scale": along_lanes(strips, weights.scale), "bias": along_lanes(strips, weights.bias)}
    return inputs, {name: whole_spec(value) for name, value in inputs.items()}


def apply_norm(refs: Tree, x: jax.Array, epsilon: float) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
    """norm(x), what is normalized of it and the factor of that; without a norm x itself."""
    if "scale" not in refs:
        return x, None, None
    normalized, factor = normalize(x, epsilon, axis=0)
    return normalized * refs["scale"][...] + refs["bias"][...], normalized, factor


def neighbors(ring: Any, row: Any, column: Any, channels: slice) -> list[jax.Array]:
    """The nine around a column of the row before `row`, the last in the ring."""
    return [ring[(row + 1 + down) % 3, column + right, channels] for down in range(3) for right in range(3)]


def ring_shape(strips: Strips) -> tuple[Any, ...]:
    """Three rows with a halo, in float32; row r is at r % 3."""
    return (3, strips.columns + HALO, strips.channels, strips.images), jnp.float32


def along_lanes(strips: Strips, x: jax.Array) -> jax.Array:
    """(..., C) as (..., C, images), each number for all images, in float32."""
    return jnp.broadcast_to(x[..., None], (*x.shape, strips.images)).astype(jnp.float32)


def over_images(x: jax.Array) -> jax.Array:
    """(B / images, C, images) as (C, B)."""
    return x.swapaxes(0, 1).reshape(x.shape[1], -1)
