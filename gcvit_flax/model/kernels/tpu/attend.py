"""Softmax attention of windows in registers, forward and backward.

Logits are computed transposed, keys along sublanes and the queries of several heads side by side along lanes: maxima
and sums over keys are then operations between registers instead of reductions across lanes, and lanes are full although
T is small. A head is selected by zeros in the other heads' channels of its queries, since cutting 32 of 128 lanes out
costs more than multiplying zeros.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from gcvit_flax.model.kernels.tpu.rows import product, reciprocal
from gcvit_flax.model.kernels.tpu.tiles import LANES

MASKED = -1e30  # Finite, so that rows of padding have a maximum.
STACKED_LANES = 1024  # The most lanes that the queries of several heads, side by side, take.


class Heads(NamedTuple):
    """How the `number` heads of a grid step lie in its channels, and T `padded` to whole registers."""

    number: int
    head_dim: int
    padded: int

    @property
    def channels(self) -> int:
        return self.number * self.head_dim

    def groups(self) -> Iterator[tuple[slice, range]]:
        """Channels that fill the lanes of a register, or all if they are fewer, and the heads whose they are."""
        size = max(1, LANES // self.head_dim)
        for first in range(0, self.number, size):
            heads = range(first, min(first + size, self.number))
            yield slice(first * self.head_dim, heads.stop * self.head_dim), heads

    def stacks(self, group: range) -> Iterator[range]:
        """The heads of a group, in as many stacks as their queries need."""
        size = max(1, STACKED_LANES // self.padded)
        return (group[start : start + size] for start in range(0, len(group), size))

    def columns(self, stack: range) -> slice:
        """The columns of the transposed bias that belong to a stack."""
        return slice(stack.start * self.padded, stack.stop * self.padded)

    def stacked(self, group: range, stack: range, x: jax.Array) -> jax.Array:
        """Copies of x (w, padded, lanes) of a group, as rows for each head of a stack, zero in other heads' lanes."""
        return jnp.concatenate([jnp.where(self._lanes(group, head, x), x, 0) for head in stack], 1)

    def unstacked(self, group: range, stack: range, x: jax.Array) -> jax.Array:
        """The transpose of `stacked`."""
        rows = [x[:, place * self.padded : (place + 1) * self.padded] for place in range(len(stack))]
        parts = [jnp.where(self._lanes(group, head, x), part, 0) for head, part in zip(stack, rows, strict=True)]
        return sum(parts[1:], parts[0])

    def _lanes(self, group: range, head: int, x: jax.Array) -> jax.Array:
        lane = jax.lax.broadcasted_iota(jnp.int32, (1, 1, x.shape[-1]), 2)
        start = (head - group.start) * self.head_dim
        return (lane >= start) & (lane < start + self.head_dim)


Logits = Callable[[range, jax.Array, jax.Array], jax.Array]


def logits_of(heads: Heads, bias_ref: Any, mask_ref: Any | None, images: int) -> Logits:
    """The function of a stack, its queries (w, stacked, lanes) and keys (w, padded, lanes) to (w, padded, stacked)."""

    def logits(stack: range, queries: jax.Array, k: jax.Array) -> jax.Array:
        x = product("wkc,wqc->wkq", k, queries) + bias_ref[:, heads.columns(stack)]
        if mask_ref is None:
            return x
        return (x.reshape(images, -1, *x.shape[1:]) + mask_ref[...][None]).reshape(x.shape)

    return logits


def softmax(logits: jax.Array) -> jax.Array:
    """Over keys, which are the rows."""
    weights = jnp.exp(logits - logits.max(1, keepdims=True))
    return weights * reciprocal(weights.sum(1, keepdims=True))


def attend(heads: Heads, group: range, logits: Logits, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """The output (w, padded, lanes) of a group of heads, float32; q is scaled and float32."""
    outputs = []
    for stack in heads.stacks(group):
        weights = softmax(logits(stack, heads.stacked(group, stack, q).astype(k.dtype), k)).astype(v.dtype)
        outputs.append(heads.unstacked(group, stack, product("wkq,wkc->wqc", weights, v)))
    return sum(outputs[1:], outputs[0])


def attend_gradients(
    heads: Heads,
    group: range,
    logits: Logits,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    gradient: jax.Array,
    bias_gradient_ref: Any,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradients of `attend` with respect to scaled q, k and v, float32; adds that of the bias to its ref."""
    total = None
    for stack in heads.stacks(group):
        queries = heads.stacked(group, stack, q).astype(k.dtype)
        gradients = heads.stacked(group, stack, gradient).astype(v.dtype)
        weights = softmax(logits(stack, queries, k))
        weights_gradient = product("wkc,wqc->wkq", v, gradients)
        logits_gradient = weights * (weights_gradient - (weights * weights_gradient).sum(1, keepdims=True))
        bias_gradient_ref[:, heads.columns(stack)] += logits_gradient.sum(0)
        logits_gradient = logits_gradient.astype(v.dtype)
        parts = (
            heads.unstacked(group, stack, product("wkq,wkc->wqc", logits_gradient, k)),
            product("wkq,wqc->wkc", logits_gradient, queries),
            product("wkq,wqc->wkc", weights.astype(v.dtype), gradients),
        )
        total = parts if total is None else jax.tree.map(jnp.add, total, parts)
    assert total is not None
    return total


def transposed_bias(heads: Heads, bias: jax.Array, groups: int = 1) -> jax.Array:
    """A bias (h or 1, T, T) as (groups, padded, number * padded), keys by queries; padding keys are masked."""
    spread = (0, heads.padded - bias.shape[-1])
    bias = jnp.broadcast_to(bias.astype(jnp.float32), (groups * heads.number, *bias.shape[1:]))
    bias = jnp.pad(bias, ((0, 0), spread, (0, 0)))
    bias = jnp.pad(bias, ((0, 0), (0, 0), spread), constant_values=MASKED)
    return rearrange(bias, "(g h) q k -> g k (h q)", g=groups)


def bias_gradient_of(heads: Heads, transposed: jax.Array, bias: jax.Array) -> jax.Array:
    """The gradient with respect to `bias` for that of its `transposed_bias`."""
    tokens = bias.shape[-1]
    gradient = rearrange(transposed, "g k (h q) -> (g h) q k", h=heads.number)[:, :tokens, :tokens]
    return (gradient.sum(0, keepdims=True) if len(bias) == 1 else gradient).astype(bias.dtype)
