"""Windows of a feature map: pure functions between maps (B, H, W, C) and windows (B, n, T, C), both row-major."""

import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Shaped

from gcvit_flax.config import Size


def partition(x: Shaped[Array, "B H W C"], window: Size) -> Shaped[Array, "B n T C"]:
    """Splits a map into windows; H and W must be multiples of the window (paper, figure 2)."""
    return rearrange(x, "B (rows wh) (columns ww) C -> B (rows columns) (wh ww) C", wh=window[0], ww=window[1])


def merge(windows: Shaped[Array, "B n T C"], window: Size, grid: Size) -> Shaped[Array, "B H W C"]:
    """Puts windows back into a map of `grid` = (H, W): the inverse of `partition`."""
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
    """`grid`, (height, width) in tokens, rounded up to whole windows."""
    height, width = (-(-side // w) * w for side, w in zip(grid, window, strict=True))
    return height, width


def pad(
    x: Shaped[Array, "B H W C"], window: Size
) -> tuple[Shaped[Array, "B height width C"], Bool[Array, "n T"] | None]:
    """Pads a map with zeros at the bottom and right to whole windows.

    Returns the padded map and the mask of real tokens, or None if nothing was padded.
    """
    _, height, width, _ = x.shape
    grid = height, width
    full = padded_grid(grid, window)
    if full == grid:
        return x, None
    spread = [(0, after - before) for before, after in zip(grid, full, strict=True)]
    real = jnp.pad(jnp.ones((1, *grid, 1), bool), ((0, 0), *spread, (0, 0)))
    return jnp.pad(x, ((0, 0), *spread, (0, 0))), partition(real, window)[0, :, :, 0]
