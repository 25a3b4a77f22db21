"""Window attention with a relative position bias, local or by the global query (paper, section 3.2, figure 3)."""

from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
from einops import rearrange

from gcvit_flax.config import Size
from gcvit_flax.model.kernels import plain
from gcvit_flax.model.kernels.attention_by_heads import split_heads
from gcvit_flax.model.kernels.narrow import is_narrower
from gcvit_flax.model.kernels.windowed_attention import windowed_attention
from gcvit_flax.model.layers import Dense, normal_init
from gcvit_flax.model.position_bias import relative_position_bias, relative_position_bias_by_products
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
        qkv = Dense(parts * channels, use_bias=self.qkv_bias, dtype=self.dtype, name="qkv")(x)
        kernel = self.variables["params"]["qkv"]["kernel"]
        if is_narrower(kernel, self.dtype):  # Then so are the operands of the attention's own products.
            qkv, query = jax.tree.map(lambda x: x.astype(kernel.dtype), (qkv, query))
        scale = head_dim**-0.5 if self.qk_scale is None else self.qk_scale
        bias = position_bias(self._bias_params(), self.window, self.bias_layout)
        # For callers that ask to see the logits, which the kernel does not return; `init` asks for everything.
        if self.is_mutable_collection("attention") and not self.is_initializing():
            q, k, _ = split_heads(qkv, query, self.num_heads, scale)
            self.sow("attention", "logits", plain.attention_logits(q, k, bias, key_mask))
        if train and self.attention_dropout_rate:
            dropout = nn.Dropout(self.attention_dropout_rate, deterministic=False)
            qkv = save_for_backward(split_heads(qkv, query, self.num_heads, scale))
            x = rearrange(plain.windowed_attention(*qkv, bias, key_mask, dropout), "B n h T d -> B n T (h d)")
        else:
            x = windowed_attention(qkv, query, bias, key_mask, self.num_heads, scale)
        x = Dense(channels, dtype=self.dtype, name="proj")(x)
        return nn.Dropout(self.dropout_rate, deterministic=not train)(x)

    def _bias_params(self) -> dict[str, jax.Array]:
        if self.bias_layout == "expanded":
            name, shape = "relative_position_bias", (self.num_heads, *[self.window[0] * self.window[1]] * 2)
        else:
            rows = (2 * self.window[0] - 1) * (2 * self.window[1] - 1)
            name, shape = "relative_position_bias_table", (rows, self.num_heads)
        return {name: self.param(name, normal_init, shape)}


def position_bias(params: Mapping[str, Any], window: Size, layout: BiasLayout) -> jax.Array:
    """The bias added to the attention logits, (h or 1, T, T), from the parameters of a `WindowAttention`."""
    if layout == "expanded":
        return params["relative_position_bias"]
    return jax.lax.platform_dependent(
        params["relative_position_bias_table"],
        tpu=lambda table: relative_position_bias_by_products(table, window, layout),
        default=lambda table: relative_position_bias(table, window, layout),
    )
