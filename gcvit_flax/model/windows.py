"""Windows of a feature map: pure functions between (B, H, W, C) and (B, n, T, C), both row-major."""

import jax
import jax.numpy as jnp
from einops import rearrange

from gcvit_flax.config import Size


def partition(x: jax.Array, window: Size) -> jax.Array:
    """Cuts a map (B, H, W, C) into windows (B, n, T, C); H and W are multiples of the window (paper, figure 2)."""
    return rearrange(x, "B (rows wh) (columns ww) C -> B (rows columns) (wh ww) C", wh=window[0], ww=window[1])


def merge(windows: jax.Array, window: Size, grid: Size) -> jax.Array:
    """Puts windows (B, n, T, C) back into a map (B, H, W, C) of `grid` = (H, W): the inverse of `partition`."""
    rows, columns = grid[0] // window[0], grid[1] // window[1]
    return rearrange(
        windows,
        "B (rows columns) (wh ww) C -> B (rows wh) (columns ww) C",
        rows=rows,
        columns=columns,
        wh=window[0],
        ww=window[1],
    )


def padded_grid(grid: Size, window: Size) -> Size:
    """The smallest whole number of windows that covers `grid`, as (height, width) in tokens."""
    return tuple(-(-side // w) * w for side, w in zip(grid, window, strict=True))


def pad(x: jax.Array, window: Size) -> tuple[jax.Array, jax.Array | None]:
    """Pads a map (B, H, W, C) with zeros at the bottom and right to whole windows.

    Returns the padded map and the mask (n, T) of real tokens, or None where nothing was padded.
    """
    grid = x.shape[1:3]
    full = padded_grid(grid, window)
    if full == grid:
        return x, None
    spread = [(0, after - before) for before, after in zip(grid, full, strict=True)]
    real = jnp.pad(jnp.ones((1, *grid, 1), bool), ((0, 0), *spread, (0, 0)))
    return jnp.pad(x, ((0, 0), *spread, (0, 0))), partition(real, window)[0, :, :, 0]
