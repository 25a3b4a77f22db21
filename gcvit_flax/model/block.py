"""The transformer block: window attention and an MLP, each on a residual branch (paper, section 3.1)."""

from typing import Any

import flax.linen as nn
import jax

from gcvit_flax.config import Size
from gcvit_flax.model.attention import BiasLayout, WindowAttention
from gcvit_flax.model.kernels.pointwise import gelu
from gcvit_flax.model.layers import Dense, LayerNorm
from gcvit_flax.model.rematerialize import save_for_backward


class Mlp(nn.Module):
    """Dense, exact GELU, Dense on the last axis: (..., C) -> (..., C), `hidden` wide in between."""

    hidden: int
    dropout_rate: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        channels = x.shape[-1]
        x = gelu(Dense(self.hidden, dtype=self.dtype, name="fc1")(x))
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        x = Dense(channels, dtype=self.dtype, name="fc2")(x)
        return nn.Dropout(self.dropout_rate, deterministic=not train)(x)


class Block(nn.Module):
    """x + scale1 * Attention(LN(x)), then x + scale2 * Mlp(LN(x)), on windows (B, n, T, C).

    `query` (B, T, C) makes the attention global. `key_mask` (n, T) is False at padding tokens. `path_scales`
    (2, B) are this block's of `drop_path_scales`; `layer_scale` is the initial value of the learned per-channel gamma1
    and gamma2, if any.
    """

    num_heads: int
    window: Size
    mlp_ratio: float
    qkv_bias: bool
    qk_scale: float | None
    bias_layout: BiasLayout
    dropout_rate: float
    attention_dropout_rate: float
    layer_scale: float | None
    dtype: Any

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
        attention = WindowAttention(
            self.num_heads,
            self.window,
            self.qkv_bias,
            self.qk_scale,
            self.bias_layout,
            self.attention_dropout_rate,
            self.dropout_rate,
            self.dtype,
            name="attn",
        )
        mlp = Mlp(int(x.shape[-1] * self.mlp_ratio), self.dropout_rate, self.dtype, name="mlp")

        y = attention(LayerNorm(self.dtype, name="norm1")(x), query, key_mask, train=train)
        x = self._add_residual(x, y, 0, path_scales)
        y = mlp(LayerNorm(self.dtype, name="norm2")(x), train=train)
        return self._add_residual(x, y, 1, path_scales)

    def _add_residual(self, x: jax.Array, y: jax.Array, branch: int, path_scales: jax.Array | None) -> jax.Array:
        """x + path scale * gamma * y: the end of residual branch 0 or 1."""
        if self.layer_scale is not None:
            gamma = self.param(f"gamma{branch + 1}", nn.initializers.constant(self.layer_scale), y.shape[-1:])
            y = save_for_backward(y) * gamma.astype(self.dtype)  # The gradient of gamma reads y.
        if path_scales is not None:
            y *= path_scales[branch, :, None, None, None].astype(self.dtype)
        # Written to memory once; XLA:CPU would compute the sum again for each of the layers that read it.
        return jax.lax.optimization_barrier(x + y)
