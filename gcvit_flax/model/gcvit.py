"""GCViT, the Global Context Vision Transformer (Hatamizadeh et al., ICML 2023, arXiv 2206.09959), figure 2.

Axes, everywhere: B batch, H W map, C channels, wh ww window, n windows per image, T = wh * ww tokens per window,
h heads, d channels per head. H/s stands for ceil(H/s), and W/s likewise.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gcvit_flax.config import MIN_IMAGE_SIDE, GCViTConfig, Preprocessing, level_grids
from gcvit_flax.errors import UserError
from gcvit_flax.model.convs import PatchEmbed
from gcvit_flax.model.drop_path import drop_path_scales
from gcvit_flax.model.kernels.precision import wide_type
from gcvit_flax.model.layers import Dense, LayerNorm
from gcvit_flax.model.level import Level
from gcvit_flax.model.rematerialize import rematerialization_policy, rematerialize
from gcvit_flax.model.windows import padded_grid
from gcvit_flax.variants import default_preprocessing, resolve_config, variant_name


class GCViT(nn.Module):
    """Images (B, H, W, in_channels), normalized as `preprocessing` says, to float32 logits (B, num_classes).

    Parameters are float32, but a float32 network multiplies by kernels in bfloat16 as such; `dtype` is what the layers
    compute in, with statistics, softmax and logits in float32, or in float64 if that is `dtype`.
    The backward pass stores the outputs of matrix products and convolutions and recomputes norms and GELUs; with
    `remat` it stores only the inputs of the stem, of each query generator, block and downsample. `fused` networks take
    the parameters that `fuse_parameters` makes. In training, pass `rngs={"dropout": key}` and, for drop path that does
    not depend on the sharding, a "drop_path" key shared by all devices and `example_index` (B,), each example's place
    in the global batch.

    Raises:
      UserError: (a ValueError) images whose shape does not fit the windows.
    """

    config: GCViTConfig
    preprocessing: Preprocessing = Preprocessing()
    dtype: Any = jnp.float32
    remat: bool = False
    fused: bool = False

    def setup(self) -> None:
        config = self.config
        self.patch_embed = PatchEmbed(config.embed_dim, self.dtype)
        self.pos_drop = nn.Dropout(config.dropout_rate)
        self.levels = [Level(config, level, self.dtype, self.remat, self.fused) for level in range(len(config.depths))]
        self.norm = LayerNorm(wide_type(self.dtype))
        if config.num_classes:
            self.head = Dense(config.num_classes, dtype=wide_type(self.dtype))

    def __call__(self, images: jax.Array, *, train: bool = False, example_index: jax.Array | None = None) -> jax.Array:
        """Logits (B, num_classes), never softmaxed; the pooled features (B, 8C) if num_classes is 0."""
        return self.classify(self.features(images, train=train, example_index=example_index)[-1])

    def embed(self, images: jax.Array, *, train: bool = False, example_index: jax.Array | None = None) -> jax.Array:
        """The features (B, 8C) after the final norm and the mean over the map, float32."""
        return self._pool(self.features(images, train=train, example_index=example_index)[-1])

    def classify(self, last: jax.Array) -> jax.Array:
        """The output of `__call__` from the last level's map (B, H/32, W/32, 8C)."""
        pooled = self._pool(last)
        return self.head(pooled) if self.config.num_classes else pooled

    def _pool(self, last: jax.Array) -> jax.Array:
        return self.norm(last).mean((1, 2))

    def features(
        self,
        images: jax.Array,
        *,
        train: bool = False,
        example_index: jax.Array | None = None,
        frozen_stages: int = -1,
    ) -> list[jax.Array]:
        """The four levels' maps before each downsample, (B, H/4, W/4, C) ... (B, H/32, W/32, 8C).

        With `frozen_stages` k >= 0 the stem and the first k levels get no gradient and no dropout or drop path.
        """
        _check_images(images, self.config)
        path_scales = self._path_scales(images.shape[0], example_index) if train else [None] * len(self.levels)
        policy = rematerialization_policy(train=train, remat=self.remat)
        x = rematerialize(self.patch_embed, jnp.asarray(images, self.dtype), policy=policy)
        x = self.pos_drop(x, deterministic=not train or frozen_stages >= 0)
        maps = []
        for index, (level, scales) in enumerate(zip(self.levels, path_scales, strict=True)):
            if index == frozen_stages:
                x = jax.lax.stop_gradient(x)
            frozen = index < frozen_stages
            features, x = level(x, None if frozen else scales, train=train and not frozen)
            maps.append(jax.lax.stop_gradient(features) if frozen else features)
        return maps

    def _path_scales(self, batch: int, example_index: jax.Array | None) -> Sequence[jax.Array | None]:
        """Each level's drop-path scales (depth, 2, B); the rate grows linearly with depth (paper, appendix B)."""
        config = self.config
        if not config.drop_path_rate:
            return [None] * len(config.depths)
        key = self.make_rng("drop_path" if self.has_rng("drop_path") else "dropout")
        rates = np.linspace(0, config.drop_path_rate, sum(config.depths))
        example_index = jnp.arange(batch) if example_index is None else example_index
        return jnp.split(drop_path_scales(key, rates, example_index), np.cumsum(config.depths)[:-1])


def create_model(
    variant: str | GCViTConfig = "gcvit_xxtiny",
    *,
    reference: str | None = None,
    dtype: Any = jnp.float32,
    remat: bool = False,
    **fields: Any,
) -> GCViT:
    """A GCViT of a published variant or a GCViTConfig, with config fields replaced by keyword.

    `reference` ("official", "gcvit_tf" or "keras_io") chooses among the public forward passes that share weights;
    `dtype` is what the layers compute in; `remat` trades time for memory in training.

    Raises:
      UserError: (a ValueError) an unknown name, field or reference, or values that do not fit each other.
    """
    config = resolve_config(variant, reference=reference, **fields)
    # Under pad_to_windows config.image_size is nominal, and the size asked for is that of the inputs.
    image_size = fields.get("image_size", config.image_size)
    preprocessing = default_preprocessing(variant_name(config), image_size, config.in_channels)
    return GCViT(config, preprocessing, dtype=dtype, remat=remat)


def _check_images(images: jax.Array, config: GCViTConfig) -> None:
    if images.ndim != 4 or images.shape[-1] != config.in_channels:
        raise UserError(f"images must have shape (B, H, W, {config.in_channels}), got {images.shape}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(
            f"images hold {images.dtype}, expected normalized floating-point values: gcvit_flax.preprocess makes them"
        )
    size = images.shape[1], images.shape[2]
    if config.pad_to_windows:
        if min(size) < MIN_IMAGE_SIDE:
            raise UserError(f"images must be at least {MIN_IMAGE_SIDE} px a side, got {size[0]}x{size[1]}")
        return
    for level, (grid, window) in enumerate(zip(level_grids(size), config.window_size, strict=True)):
        if padded_grid(grid, window) != grid:
            expected = "{}x{}".format(*config.image_size)
            raise UserError(
                f"images of {size[0]}x{size[1]} px do not fit: level {level}'s map {grid[0]}x{grid[1]} is not whole "
                f"windows of {window[0]}x{window[1]}; resize them to {expected}, create the model with "
                f"image_size={size}, or set pad_to_windows=True"
            )
