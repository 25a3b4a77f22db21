"""One level of the network: its blocks, its global query and the downsample after it (paper, figure 2)."""

from typing import Any

import flax.linen as nn
import jax

from gcvit_flax.config import GCViTConfig
from gcvit_flax.model.block import Block
from gcvit_flax.model.convs import ReduceSize
from gcvit_flax.model.global_query import GlobalQueryGenerator
from gcvit_flax.model.position_bias import is_expanded
from gcvit_flax.model.rematerialize import Policy, rematerialization_policy, rematerialize
from gcvit_flax.model.windows import merge, pad, padded_grid, partition


class Level(nn.Module):
    """One level: blocks alternating local and global attention, then a downsample (none after the last).

    Returns the map (B, H, W, C) after the blocks and the next level's input (B, H/2, W/2, 2C), or at the last level the
    map again. Every block of a level has the same windows and all else acts on single tokens, so the map is cut into
    windows once, here. Padding tokens are masked out of every softmax and cropped at the end; nothing real sees them.
    """

    config: GCViTConfig
    level: int
    dtype: Any
    remat: bool
    fused: bool

    @nn.compact
    def __call__(self, x: jax.Array, path_scales: jax.Array | None, *, train: bool) -> tuple[jax.Array, jax.Array]:
        config, level = self.config, self.level
        window, grid = config.window_size[level], (x.shape[1], x.shape[2])
        generator = GlobalQueryGenerator(
            config.query_stages[level], window, config.query_pool_padding, self.dtype, name="q_global_gen"
        )
        policy = rematerialization_policy(train=train, remat=self.remat)
        query = rematerialize(generator, x, policy=policy)
        x, key_mask = pad(x, window)
        x = partition(x, window)  # (B, n, T, C)
        for index in range(config.depths[level]):
            scales = None if path_scales is None else path_scales[index]
            inputs = x, query if index % 2 else None, key_mask, scales
            x = self._apply_block(self._block(index), *inputs, policy=policy, train=train)
        x = merge(x, window, padded_grid(grid, window))[:, : grid[0], : grid[1]]  # (B, H, W, C)

        if level == len(config.depths) - 1:
            return x, x
        downsample = ReduceSize(2 * x.shape[-1], self.dtype, name="downsample")
        return x, rematerialize(downsample, x, policy=policy)

    @nn.nowrap
    def _apply_block(
        self,
        block: Block,
        x: jax.Array,
        query: jax.Array | None,
        key_mask: jax.Array | None,
        path_scales: jax.Array | None,
        *,
        policy: Policy | None,
        train: bool,
    ) -> jax.Array:
        if self.remat or policy is None:
            return rematerialize(block, x, query, key_mask, path_scales, policy=policy, train=train)
        # Branch by branch, whose inputs are stored without a copy: what `save_for_backward` marks is copied on TPUs.
        scale1, scale2 = (None, None) if path_scales is None else path_scales
        inputs = x, query, key_mask, scale1
        x = rematerialize(block, *inputs, policy=policy, method="attention_branch", train=train)
        return rematerialize(block, x, scale2, policy=policy, method="mlp_branch", train=train)

    @nn.nowrap
    def _block(self, index: int) -> Block:
        config, level = self.config, self.level
        expanded = self.fused and is_expanded(config, level)
        return Block(
            config.dims[level],
            config.num_heads[level],
            config.window_size[level],
            config.mlp_ratio,
            qkv_bias=config.qkv_bias,
            qk_scale=1.0 if self.fused else config.qk_scale,
            bias_layout="expanded" if expanded else config.relative_position_bias,
            dropout_rate=config.dropout_rate,
            attention_dropout_rate=config.attention_dropout_rate,
            layer_scale=None if self.fused else config.layer_scale,
            dtype=self.dtype,
            name=f"blocks_{index}",
        )
