"""Attention of every block: softmax weights, maps of received attention, and the learned position bias."""

import functools
from typing import Any

import jax
import numpy as np
from einops import rearrange

from gcvit_flax.config import NUM_LEVELS, GCViTConfig, level_grids
from gcvit_flax.errors import UserError
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.model.position_bias import relative_position_bias, relative_position_index
from gcvit_flax.model.windows import padded_grid

BlockId = tuple[int, int]  # Level, and the block's number in it.


def attention_weights(model: GCViT, variables: dict[str, Any], images: np.ndarray) -> dict[BlockId, np.ndarray]:
    """The softmax weights of all heads of every block: {(level, block): float32 (B, n, h, T queries, T keys)}.

    `images` (B, H, W, 3) are normalized, as `preprocess` returns them; padded keys have weight 0. One program is
    compiled for each shape.

    Raises:
      UserError: (a ValueError) images that do not fit the model.
    """
    blocks = tuple((level, block) for level, depth in enumerate(model.config.depths) for block in range(depth))
    logits = attention_logits(model, variables, images, blocks)
    return {block: _softmax(np.asarray(values), -1) for block, values in logits.items()}


def attention_map(model: GCViT, variables: dict[str, Any], images: np.ndarray, level: int, block: int) -> np.ndarray:
    """The attention that each position of a level's map receives in one block, float32 (B, h, H, W); 1 is uniform.

    In a local block it comes from the token's own window: the mean weight over the window's queries, times the number
    of its keys. In a global block (odd numbers) all windows of an image share their queries, so their logits are on one
    scale, and the softmax is taken over all keys of the image: the windows' weights times each window's share of the
    exponentials. The network itself normalizes within each window, which hides the windows that match the query best.

    Raises:
      UserError: (a ValueError) a level or block that the model lacks, or images that do not fit it.
    """
    _check_block(model.config, level, block)
    logits = attention_logits(model, variables, images, ((level, block),))[level, block]
    return received_attention(logits, model, images.shape, level, block)


def relative_position_bias_planes(model: GCViT, variables: dict[str, Any], level: int, block: int) -> np.ndarray:
    """The learned bias of one block over offsets, float32 (h, 2 wh-1, 2 ww-1), at [head, dy + wh-1, dx + ww-1].

    dy and dx are the query's row and column minus the key's. With `relative_position_bias="flattened"` all heads have
    the same plane, made of the first rows of the table; the network never reads the others.

    Raises:
      UserError: (a ValueError) a level or block that the model lacks.
    """
    _check_block(model.config, level, block)
    config, window = model.config, model.config.window_size[level]
    params = variables["params"][f"levels_{level}"][f"blocks_{block}"]["attn"]
    if "relative_position_bias" in params:  # Fused.
        bias = np.asarray(params["relative_position_bias"])
    else:
        table = np.asarray(params["relative_position_bias_table"])
        bias = np.asarray(relative_position_bias(table, window, config.relative_position_bias))
    rows, columns = 2 * window[0] - 1, 2 * window[1] - 1
    planes = np.zeros((config.num_heads[level], rows * columns), np.float32)
    planes[:, relative_position_index(window)] = bias  # All pairs of tokens with the same offset have the same bias.
    return planes.reshape(-1, rows, columns)


@functools.partial(jax.jit, static_argnums=(0, 3))
def attention_logits(
    model: GCViT, variables: dict[str, Any], images: np.ndarray | jax.Array, blocks: tuple[BlockId, ...]
) -> dict[BlockId, jax.Array]:
    """{(level, block): attention logits (B, n, h, T, T), -inf at padded keys} of some `blocks`."""
    _, state = model.apply(variables, images, mutable=["attention"])
    return {
        (level, block): state["attention"][f"levels_{level}"][f"blocks_{block}"]["attn"]["logits"][0]
        for level, block in blocks
    }


def received_attention(
    block_logits: np.ndarray | jax.Array, model: GCViT, shape: tuple[int, ...], level: int, block: int
) -> np.ndarray:
    """The map (B, h, H, W) of `attention_map`, from a block's logits (B, n, h, T, T) for images of `shape`."""
    logits = np.asarray(block_logits)
    real = logits[:1, :, :1, :1] != -np.inf  # Keys that are not padding, (1, n, 1, 1, T).
    if is_global(block):
        received = _softmax(logits, (1, -1)).mean(-2) * real.sum()  # (B, n, h, T)
    else:  # A window has as many real queries as keys, so the sum over queries is their mean times the number of keys.
        received = (_softmax(logits, -1) * np.swapaxes(real, -1, -2)).sum(-2)
    window, grid = model.config.window_size[level], level_grids((shape[1], shape[2]))[level]
    maps = rearrange(
        received,
        "B (rows columns) h (wh ww) -> B h (rows wh) (columns ww)",
        rows=padded_grid(grid, window)[0] // window[0],
        wh=window[0],
        ww=window[1],
    )
    return maps[..., : grid[0], : grid[1]]


def _softmax(logits: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis, keepdims=True), dtype=np.float32)
    return weights / weights.sum(axis, keepdims=True)


def is_global(block: int) -> bool:
    """Whether the block of this number in its level attends with the global query."""
    return block % 2 == 1


def _check_block(config: GCViTConfig, level: int, block: int) -> None:
    select("the network", "level", level, NUM_LEVELS)
    select(f"level {level}", "block", block, config.depths[level])


def select(owner: str, part: str, chosen: int | str, count: int) -> list[int]:
    """The numbers, below `count`, of the parts that `chosen` names by its number or by "all".

    Raises:
      UserError: (a ValueError) a part that `owner` lacks.
    """
    if chosen == "all":
        return list(range(count))
    if str(chosen) not in map(str, range(count)):
        raise UserError(f"{owner} has no {part} {chosen}: its {part}s are 0 to {count - 1}")
    return [int(chosen)]
