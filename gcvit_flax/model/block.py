"""The transformer block: window attention and an MLP, each on a residual branch (paper, section 3.1)."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gcvit_flax.model.attention import WindowAttention
from gcvit_flax.model.kernels.pointwise import gelu
from gcvit_flax.model.numerics import Dense, LayerNorm
from gcvit_flax.model.remat import keep


def drop_path_scales(key: jax.Array, rates: Sequence[float], example_index: jax.Array) -> jax.Array:
    """Stochastic depth for a whole network: 0 or 1/(1 - rate) for each block, branch and example, (blocks, 2, B).

    Drawn at once from `key` and each example's index (B,) in the global batch, so that the draw does not depend on
    how the batch is spread over devices. `rates` are the blocks' probabilities of dropping a branch.
    """
    rates = jnp.asarray(rates)[:, None]

    def one_example(index):
        kept = jax.random.uniform(jax.random.fold_in(key, index), (len(rates), 2)) >= rates
        return kept / (1 - rates)

    return jax.vmap(one_example, out_axes=-1)(example_index)


class Mlp(nn.Module):
    """Dense, exact GELU, Dense on the last axis: (..., C) -> (..., C), `hidden` wide in between."""

    hidden: int
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        channels = x.shape[-1]
        x = gelu(keep(Dense(self.hidden, dtype=self.dtype, name="fc1")(x)))
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        x = Dense(channels, dtype=self.dtype, name="fc2")(x)
        return nn.Dropout(self.dropout_rate, deterministic=not train)(x)


class Block(nn.Module):
    """x + scale1 * Attention(LN(x)), then x + scale2 * Mlp(LN(x)), on windows (B, n, T, C).

    `query` (B, T, C) makes the attention global. `path_scales` (2, B) are this block's drops from
    `drop_path_scales`; `layer_scale` is the initial value of the learned per-channel gamma1 and gamma2, if any.
    """

    num_heads: int
    window: tuple[int, int]
    mlp_ratio: float
    qkv_bias: bool = True
    qk_scale: float | None = None
    relative_position_bias: str = "per_head"
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    layer_scale: float | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        query: jax.Array | None = None,
        key_mask: jax.Array | None = None,
        path_scales: jax.Array | None = None,
        *,
        train: bool,
    ) -> jax.Array:
        channels = x.shape[-1]
        attention = WindowAttention(
            self.num_heads,
            self.window,
            qkv_bias=self.qkv_bias,
            qk_scale=self.qk_scale,
            relative_position_bias=self.relative_position_bias,
            attention_dropout_rate=self.attention_dropout_rate,
            dropout_rate=self.dropout_rate,
            dtype=self.dtype,
            name="attn",
        )
        mlp = Mlp(int(channels * self.mlp_ratio), self.dropout_rate, self.dtype, name="mlp")

        branch = attention(LayerNorm(dtype=self.dtype, name="norm1")(x), query, key_mask, train=train)
        x = keep(jax.lax.optimization_barrier(x + self._scale(branch, 0, path_scales)))
        branch = mlp(LayerNorm(dtype=self.dtype, name="norm2")(x), train=train)
        return jax.lax.optimization_barrier(x + self._scale(branch, 1, path_scales))

    def _scale(self, branch: jax.Array, which: int, path_scales: jax.Array | None) -> jax.Array:
        if self.layer_scale is not None:
            branch = keep(branch)
            init = nn.initializers.constant(self.layer_scale)
            branch *= self.param(f"gamma{which + 1}", init, branch.shape[-1:]).astype(self.dtype)
        if path_scales is not None:
            branch *= path_scales[which, :, None, None, None].astype(self.dtype)
        return branch
