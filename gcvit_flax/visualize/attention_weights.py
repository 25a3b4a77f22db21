"""What each block attends to: softmax weights, maps of received attention, and the learned position bias."""

import functools

import jax
import numpy as np
from einops import rearrange

from gcvit_flax.config import NUM_LEVELS, GCViTConfig
from gcvit_flax.errors import UserError
from gcvit_flax.model.attention import relative_position_bias, relative_position_index
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.model.windows import merge, padded_grid


def attention_weights(model: GCViT, variables: dict, images: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """The softmax weights of all heads of every block: {(level, block): float32 (B, n, h, T queries, T keys)}.

    `images` (B, H, W, 3) are normalised, as `preprocess` gives them; padded keys have weight 0. One program is
    compiled for each shape.

    Raises:
      UserError: (a ValueError) images that do not fit the model.
    """
    depths = enumerate(model.config.depths)
    places = tuple((level, block) for level, depth in depths for block in range(depth))
    logits = attention_logits(model, variables, images, places)
    return {place: _softmax(np.asarray(values), -1) for place, values in logits.items()}


def attention_map(model: GCViT, variables: dict, images: np.ndarray, level: int, block: int) -> np.ndarray:
    """The attention that each place of a level's map receives in one block, float32 (B, h, H, W); 1 is uniform.

    In a local block it is what a token's own window gives it: the mean weight over the window's queries, times the
    number of its keys. In a global block (odd numbers) all windows of an image have the same queries, so that logits
    are on one scale throughout the image, and the softmax is taken over all of its keys: the windows' weights times
    each window's share of the exponentials. The network itself has each window sum to 1, which hides the windows that
    answer to the query best.

    Raises:
      UserError: (a ValueError) a level or block that the model lacks, or images that do not fit it.
    """
    _check_place(model.config, level, block)
    place = (level, block)
    return received_attention(attention_logits(model, variables, images, (place,))[place], model, images.shape, *place)


def relative_position_bias_planes(model: GCViT, variables: dict, level: int, block: int) -> np.ndarray:
    """The learned bias of one block over offsets, float32 (h, 2 wh-1, 2 ww-1), at [head, dy + wh-1, dx + ww-1].

    dy and dx are the query's row and column less the key's. Where `relative_position_bias` is "flattened", all heads
    have the same plane, made of the first rows of the table; the network never reads the others.

    Raises:
      UserError: (a ValueError) a level or block that the model lacks.
    """
    _check_place(model.config, level, block)
    config, window = model.config, model.config.window_size[level]
    params = variables["params"][f"levels_{level}"][f"blocks_{block}"]["attn"]
    if model.fused:
        bias = np.asarray(params["relative_position_bias"])
    else:
        table = np.asarray(params["relative_position_bias_table"])
        bias = relative_position_bias(table, window, config.relative_position_bias)
    rows, columns = 2 * window[0] - 1, 2 * window[1] - 1
    planes = np.zeros((config.num_heads[level], rows * columns), np.float32)
    planes[:, relative_position_index(window)] = bias  # All pairs of an offset have the same.
    return planes.reshape(-1, rows, columns)


@functools.partial(jax.jit, static_argnums=(0, 3))
def attention_logits(
    model: GCViT, variables: dict, images: jax.Array, places: tuple[tuple[int, int], ...]
) -> dict[tuple[int, int], jax.Array]:
    """{(level, block): attention logits (B, n, h, T, T), -inf at padded keys} of some `places`."""
    _, state = model.apply(variables, images, mutable=["attention"])
    return {
        (level, block): state["attention"][f"levels_{level}"][f"blocks_{block}"]["attn"]["logits"][0]
        for level, block in places
    }


def received_attention(logits: jax.Array, model: GCViT, shape: tuple[int, ...], level: int, block: int) -> np.ndarray:
    """The map (B, h, H, W) of `attention_map`, from a block's logits (B, n, h, T, T) for images of `shape`."""
    logits = np.asarray(logits)
    real = logits[:1, :, :1, :1] != -np.inf  # Keys that are not padding, (1, n, 1, 1, T).
    if is_global(block):
        received = _softmax(logits, (1, -1)).mean(-2) * real.sum()  # (B, n, h, T)
    else:  # Queries that are not padding are as many as keys, so that their mean times that number is their sum.
        received = (_softmax(logits, -1) * np.swapaxes(real, -1, -2)).sum(-2)
    window, grid = model.config.window_size[level], tuple(-(-side // 2 ** (level + 2)) for side in shape[1:3])
    maps = merge(rearrange(received, "B n h T -> B n T h"), window, padded_grid(grid, window))
    return rearrange(maps[:, : grid[0], : grid[1]], "B H W h -> B h H W")


def _softmax(logits: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis, keepdims=True), dtype=np.float32)
    return weights / weights.sum(axis, keepdims=True)


def is_global(block: int) -> bool:
    """Whether the block of this number in its level attends by the global query."""
    return block % 2 == 1


def _check_place(config: GCViTConfig, level: int, block: int) -> None:
    pick("the network", "level", level, NUM_LEVELS)
    pick(f"level {level}", "block", block, config.depths[level])


def pick(owner: str, part: str, chosen: int | str, count: int) -> list[int]:
    """The parts, of `count`, that `chosen` names by number or "all"."""
    if chosen == "all":
        return list(range(count))
    if str(chosen) not in map(str, range(count)):
        raise UserError(f"{owner} has no {part} {chosen}: its {part}s are 0 to {count - 1}")
    return [int(chosen)]
