"""The backward pass of an MBConv residual as two kernels, before and after the gates' gradient; see mbconv_forward."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from gcvit_flax.model.kernels.tpu.mbconv_forward import (
    MBConvWeights,
    along_lanes,
    apply_norm,
    neighbors,
    norm_inputs,
    over_images,
    ring_shape,
)
from gcvit_flax.model.kernels.tpu.rows import normal_cdf_and_density, normalize_gradient, product
from gcvit_flax.model.kernels.tpu.strips import HALO, Strips, cost_of, make_strips, over_columns, run_strips
from gcvit_flax.model.kernels.tpu.tiles import SUBLANES, Tree, whole_spec


@jax.jit
def gate_gradients(
    y: jax.Array, gate: jax.Array, kernel: jax.Array, gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The gradients of `mbconv_forward.pointwise` for the gates (C, B) and for its kernel (C, C), in float32."""
    strips = make_strips(y, wide=1, narrow=4)
    inputs = {"y": y, "gradient": gradient, "gate": gate, "pointwise": kernel}
    specs = {
        "y": strips.spec(),
        "gradient": strips.spec(),
        "gate": strips.image_spec(),
        "pointwise": whole_spec(kernel),
    }

    def step(refs: Tree, outputs: Tree, _: Tree) -> None:
        def add(column: Any, totals: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            y, gradient = refs["y"][0, column].astype(jnp.float32), refs["gradient"][0, column]
            activated = y * normal_cdf_and_density(y)[0]
            gate = activated * product("io,ob->ib", refs["pointwise"][...], gradient)
            gated = (activated * refs["gate"][...]).astype(gradient.dtype)
            return totals[0] + gate, totals[1] + product("ib,ob->io", gated, gradient)

        zeros = jnp.zeros(outputs["gate"].shape), jnp.zeros(outputs["pointwise"].shape)
        gate, pointwise = over_columns(0, strips.columns, add, zeros)
        outputs["gate"][...] += gate
        outputs["pointwise"][...] += pointwise

    sums = {"gate": (strips.channels, strips.images), "pointwise": kernel.shape}
    results = run_strips(step, strips, 0, inputs, specs, {}, {}, sums, {}, cost_of(y, 2, 0, 2), "mbconv_gate_gradients")
    return over_images(results["gate"].sum(1)), results["pointwise"].sum((0, 1))


@functools.partial(jax.jit, static_argnames=("epsilon",))
def depthwise_gradients(
    x: jax.Array,
    y: jax.Array,
    gate: jax.Array,
    sums_gradient: jax.Array,
    weights: MBConvWeights,
    gradient: jax.Array,
    epsilon: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The gradients for x and, by name, for taps, scale and bias, from those for the sums and the result."""
    strips = make_strips(x, wide=5, narrow=9)
    inputs, specs = norm_inputs(strips, weights)
    arrays = {"x": x, "y": y, "gradient": gradient, "gate": gate, "sums_gradient": sums_gradient}
    specs |= {"x": strips.spec(lag=1), "y": strips.halo_spec(), "gradient": strips.halo_spec()}
    specs |= {"gate": strips.image_spec(), "sums_gradient": strips.image_spec()}
    inputs |= arrays | {"taps": along_lanes(strips, weights.taps), "pointwise": weights.pointwise}
    specs |= {name: whole_spec(inputs[name]) for name in ("taps", "pointwise")}

    def kernel(refs: Tree, outputs: Tree, scratch: Tree) -> None:
        row = pl.program_id(2)

        @pl.when(row == 0)
        def _() -> None:
            scratch["ring"][2] = jnp.zeros(scratch["ring"].shape[1:])

        _fill(strips, refs, scratch["ring"], row)

        @pl.when(row > 0)
        def _() -> None:
            _transposed_convolution(strips, refs, outputs, scratch, row, epsilon)
            _norm_gradients(strips, refs, outputs, scratch, epsilon)

        def hold(column: Any, _: None) -> None:
            scratch["held"][column] = strips.load(refs["gradient"], column + 1)

        over_columns(0, strips.columns, hold)

    column_shape = (strips.columns, strips.channels, strips.images)
    scratch = {"ring": ring_shape(strips), "held": (column_shape, gradient.dtype)}
    scratch |= {name: (column_shape, jnp.float32) for name in ("normed", "normed_gradient")}
    sums: Tree = {name: inputs[name].shape for name in ("taps", "scale", "bias") if name in inputs}
    outputs, output_specs = {"x": jax.ShapeDtypeStruct(x.shape, x.dtype)}, {"x": strips.spec(lag=1)}
    cost, name = cost_of(x, 1, 2, 4), "mbconv_depthwise_gradients"
    results = run_strips(kernel, strips, 1, inputs, specs, outputs, output_specs, sums, scratch, cost, name)
    return results["x"], {name: results[name].sum((0, 1, -1)) for name in sums}


def _fill(strips: Strips, refs: Tree, ring: Any, row: Any) -> None:
    """Puts the gradient of a row of the depthwise convolution's results into the ring."""

    def fill(column: Any, _: None) -> None:
        activated = product("io,ob->ib", refs["pointwise"][...], strips.load(refs["gradient"], column))
        y = strips.load(refs["y"], column).astype(jnp.float32)
        cdf, density = normal_cdf_and_density(y)
        gradient = (activated * refs["gate"][...] + refs["sums_gradient"][...]) * (cdf + y * density)
        ring[row % 3, column] = strips.mask(row, column, gradient)

    over_columns(0, strips.columns + HALO, fill)


def _transposed_convolution(strips: Strips, refs: Tree, outputs: Tree, scratch: Tree, row: Any, epsilon: float) -> None:
    """From the ring, for the row before `row`: the gradient of the convolution's inputs, and that of its taps."""
    ring, normed, normed_gradient = (scratch[name] for name in ("ring", "normed", "normed_gradient"))

    def norm(column: Any, _: None) -> None:
        normed[column] = apply_norm(refs, refs["x"][0, column].astype(jnp.float32), epsilon)[0]

    over_columns(0, strips.columns, norm)
    for start in range(0, strips.channels, SUBLANES):
        channels = slice(start, start + SUBLANES)
        taps = [refs["taps"][tap, channels] for tap in range(9)]

        def convolve(column: Any, totals: Any, channels: slice = channels, taps: list[jax.Array] = taps) -> Any:
            around = neighbors(ring, row, column, channels)[::-1]  # What a tap multiplied is on its other side.
            normed_gradient[column, channels] = sum(near * tap for near, tap in zip(around, taps, strict=True))
            center = normed[column, channels]
            return [total + center * near for total, near in zip(totals, around, strict=True)]

        zeros = [jnp.zeros((SUBLANES, strips.images))] * 9
        for tap, total in enumerate(over_columns(0, strips.columns, convolve, zeros)):
            outputs["taps"][tap, channels] += total


def _norm_gradients(strips: Strips, refs: Tree, outputs: Tree, scratch: Tree, epsilon: float) -> None:
    """Adds the residual's gradient, and passes the norm, for the row that is held."""

    def write(column: Any, totals: Any) -> Any:
        gradient = scratch["normed_gradient"][column] + scratch["held"][column].astype(jnp.float32)
        _, normalized, factor = apply_norm(refs, refs["x"][0, column].astype(jnp.float32), epsilon)
        if normalized is None or factor is None:
            outputs["x"][0, column] = gradient.astype(outputs["x"].dtype)
            return totals
        x_gradient = normalize_gradient(normalized, factor, gradient * refs["scale"][...], axis=0)
        outputs["x"][0, column] = x_gradient.astype(outputs["x"].dtype)
        return totals[0] + gradient * normalized, totals[1] + gradient

    zeros = (jnp.zeros((strips.channels, strips.images)),) * 2
    scale, bias = over_columns(0, strips.columns, write, zeros)
    if "scale" in refs:
        outputs["scale"][...] += scale
        outputs["bias"][...] += bias
