"""Window attention with a relative position bias, local or by the global query (paper, section 3.2, figure 3)."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from gcvit_flax.config import Size
from gcvit_flax.model.kernels import plain
from gcvit_flax.model.kernels.windowed_attention import windowed_attention
from gcvit_flax.model.layers import Dense, normal_init
from gcvit_flax.model.position_bias import relative_position_bias
from gcvit_flax.model.rematerialize import save_for_backward

BiasLayout = Literal["per_head", "flattened", "expanded"]


class WindowAttention(nn.Module):
    """Multi-head attention over the tokens of each window, (B, n, T, C) -> (B, n, T, C).

    Without `query` it is local: q, k and v come from the window. With `query` (B, T, C) it is global: the query is
    split into heads without a projection and shared by all windows of the same image (paper, section 3.2). `key_mask`
    (n, T) is False at padding tokens. `bias_layout` "expanded" has a bias (h, T, T) as its parameter, not a table.
    """

    num_heads: int
    window: Size
    qkv_bias: bool
    qk_scale: float | None
    bias_layout: BiasLayout
    attention_dropout_rate: float
    dropout_rate: float
    dtype: Any

    @nn.compact
    def __call__(
        self, x: jax.Array, query: jax.Array | None = None, key_mask: jax.Array | None = None, *, train: bool
    ) -> jax.Array:
        channels = x.shape[-1]
        head_dim = channels // self.num_heads

        parts = 3 if query is None else 2
        x = Dense(parts * channels, use_bias=self.qkv_bias, dtype=self.dtype, name="qkv")(x)
        *q, k, v = rearrange(x, "B n T (parts h d) -> parts B n h T d", parts=parts, h=self.num_heads)
        q = q[0] if query is None else rearrange(query, "B T (h d) -> B h T d", h=self.num_heads)

        scale = head_dim**-0.5 if self.qk_scale is None else self.qk_scale
        q = q * jnp.asarray(scale, self.dtype)
        bias = self._bias()
        # For callers that ask to see the logits, which the kernel does not return; `init` asks for everything.
        if self.is_mutable_collection("attention") and not self.is_initializing():
            self.sow("attention", "logits", plain.attention_logits(q, k, bias, key_mask))
        if train and self.attention_dropout_rate:
            dropout = nn.Dropout(self.attention_dropout_rate, deterministic=False)
            q, k, v = save_for_backward((q, k, v))
            x = plain.windowed_attention(q, k, v, bias, key_mask, dropout)
        else:
            x = windowed_attention(q, k, v, bias, key_mask)
        x = rearrange(x, "B n h T d -> B n T (h d)")
        x = Dense(channels, dtype=self.dtype, name="proj")(x)
        return nn.Dropout(self.dropout_rate, deterministic=not train)(x)

    def _bias(self) -> jax.Array:
        """The bias added to the attention logits, (h or 1, T, T)."""
        tokens = self.window[0] * self.window[1]
        if self.bias_layout == "expanded":
            return self.param("relative_position_bias", normal_init, (self.num_heads, tokens, tokens))
        rows = (2 * self.window[0] - 1) * (2 * self.window[1] - 1)
        table = self.param("relative_position_bias_table", normal_init, (rows, self.num_heads))
        return relative_position_bias(table, self.window, self.bias_layout)
