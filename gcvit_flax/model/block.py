"""The transformer block: window attention and an MLP, each on a residual branch (paper, section 3.1)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from gcvit_flax.config import Size
from gcvit_flax.model.attention import BiasLayout, WindowAttention, position_bias
from gcvit_flax.model.by_platform import by_platform, is_watched
from gcvit_flax.model.kernels.barrier import cpu_barrier
from gcvit_flax.model.kernels.pointwise import gelu
from gcvit_flax.model.kernels.tpu import branches
from gcvit_flax.model.kernels.tpu.attention_branch import AttentionSettings
from gcvit_flax.model.kernels.tpu.attention_steps import fit_branch
from gcvit_flax.model.layers import LAYER_NORM_EPSILON, Dense, LayerNorm
from gcvit_flax.model.rematerialize import save_for_backward

# Channels: the weights of wider blocks, and the sums of their gradients, exceed the vector memory of a v4 core.
WIDEST_KERNEL = 256


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
    and gamma2, if any. On a TPU each branch of a narrow block without dropout is one kernel.
    """

    channels: int
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

    def setup(self) -> None:
        self.norm1 = LayerNorm(self.dtype)
        self.attn = WindowAttention(
            self.num_heads,
            self.window,
            self.qkv_bias,
            self.qk_scale,
            self.bias_layout,
            self.attention_dropout_rate,
            self.dropout_rate,
            self.dtype,
        )
        self.norm2 = LayerNorm(self.dtype)
        self.mlp = Mlp(int(self.channels * self.mlp_ratio), self.dropout_rate, self.dtype)
        if self.layer_scale is not None:
            gamma = nn.initializers.constant(self.layer_scale), (self.channels,)
            self.gamma1, self.gamma2 = self.param("gamma1", *gamma), self.param("gamma2", *gamma)

    def __call__(
        self,
        x: jax.Array,
        query: jax.Array | None = None,
        key_mask: jax.Array | None = None,
        path_scales: jax.Array | None = None,
        *,
        train: bool,
    ) -> jax.Array:
        scale1, scale2 = (None, None) if path_scales is None else path_scales
        return self.mlp_branch(self.attention_branch(x, query, key_mask, scale1, train=train), scale2, train=train)

    def attention_branch(
        self,
        x: jax.Array,
        query: jax.Array | None,
        key_mask: jax.Array | None,
        path_scale: jax.Array | None,
        *,
        train: bool,
    ) -> jax.Array:
        """x + path scale * gamma1 * Attention(LN(x)): the first half of the block."""
        inputs = x, query, key_mask, path_scale
        return self._by_platform(self._attention_kernel, "add_attention", inputs, train)

    def mlp_branch(self, x: jax.Array, path_scale: jax.Array | None, *, train: bool) -> jax.Array:
        """x + path scale * gamma2 * Mlp(LN(x)): the second half of the block."""
        return self._by_platform(_mlp_kernel, "add_mlp", (x, path_scale), train)

    @nn.nowrap
    def _by_platform(
        self,
        kernel: Callable[..., jax.Array],
        method: str,
        inputs: tuple[jax.Array, *tuple[jax.Array | None, ...]],
        train: bool,
    ) -> Any:
        """`kernel(params, *inputs)` on TPUs, where the block is fit for it, otherwise `method(*inputs)`."""
        if not self._branches_are_kernels(inputs[0], train):
            return getattr(self, method)(*inputs, train=train)
        return by_platform(self, self.variables["params"], kernel, method, *inputs, train=train)

    def add_attention(
        self,
        x: jax.Array,
        query: jax.Array | None,
        key_mask: jax.Array | None,
        path_scale: jax.Array | None,
        *,
        train: bool,
    ) -> jax.Array:
        """x + path scale * gamma1 * Attention(LN(x)), by the layers."""
        y = self.attn(self.norm1(x), query, key_mask, train=train)
        return self._add_residual(x, y, None if self.layer_scale is None else self.gamma1, path_scale)

    def add_mlp(self, x: jax.Array, path_scale: jax.Array | None, *, train: bool) -> jax.Array:
        """x + path scale * gamma2 * Mlp(LN(x)), by the layers."""
        y = self.mlp(self.norm2(x), train=train)
        return self._add_residual(x, y, None if self.layer_scale is None else self.gamma2, path_scale)

    def _add_residual(
        self, x: jax.Array, y: jax.Array, gamma: jax.Array | None, path_scale: jax.Array | None
    ) -> jax.Array:
        if gamma is not None:
            y = save_for_backward(y) * gamma.astype(self.dtype)  # The gradient of gamma reads y.
        if path_scale is not None:
            y *= path_scale[:, None, None, None].astype(self.dtype)
        # Written to memory once; XLA:CPU would compute the sum again for each of the layers that read it.
        return cpu_barrier(x + y)

    def _branches_are_kernels(self, x: jax.Array, train: bool) -> bool:
        """Whether each branch is one kernel on TPUs: not where it has dropout, is wide, or its parts are asked for."""
        dropout = train and (self.dropout_rate or self.attention_dropout_rate)
        fits = self.channels <= WIDEST_KERNEL and x.dtype == self.dtype
        return fits and fit_branch(x, self.num_heads) and not dropout and not is_watched(self)

    def _attention_kernel(
        self,
        params: branches.Params,
        x: jax.Array,
        query: jax.Array | None,
        key_mask: jax.Array | None,
        path_scale: jax.Array | None,
    ) -> jax.Array:
        bias = position_bias(params["attn"], self.window, self.bias_layout)
        scale = (self.channels // self.num_heads) ** -0.5 if self.qk_scale is None else self.qk_scale
        settings = AttentionSettings(self.num_heads, scale, LAYER_NORM_EPSILON)
        return branches.attention(x, query, params, bias, key_mask, path_scale, settings)


def _mlp_kernel(params: branches.Params, x: jax.Array, path_scale: jax.Array | None) -> jax.Array:
    return branches.mlp(x, params, path_scale, LAYER_NORM_EPSILON)
