"""GCViT as a backbone for detection, segmentation and other dense tasks."""

from typing import Any

import flax.linen as nn
import jax
from flax.traverse_util import path_aware_map

from gcvit_flax.config import NUM_LEVELS
from gcvit_flax.errors import UserError
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.model.kernels.precision import wide_type, widen
from gcvit_flax.model.layers import LayerNorm


class Backbone(nn.Module):
    """The maps of chosen `levels` (strides 4, 8, 16 and 32), each normalized by a LayerNorm of its own with `norms`.

    Images (B, H, W, 3) to a list of float32 maps (B, H/s, W/s, C_level). `frozen_stages` k >= 0 freezes the stem and
    the first k levels. Parameters are {"model": those of `model`, "norm_LEVEL": ...}: to start from a model
    folder, put its parameters under "model". For any size of images, give a model with `pad_to_windows=True`.

    Raises:
      UserError: (a ValueError) levels or frozen_stages that the network does not have.
    """

    model: GCViT
    levels: tuple[int, ...] = (0, 1, 2, 3)
    norms: bool = True
    frozen_stages: int = -1

    def setup(self) -> None:
        if not self.levels or list(self.levels) != sorted(set(self.levels) & set(range(NUM_LEVELS))):
            raise UserError(f"levels must be some of 0 to {NUM_LEVELS - 1} in rising order, got {self.levels}")
        if not -1 <= self.frozen_stages <= NUM_LEVELS:
            raise UserError(
                f"frozen_stages must be from -1 (nothing) to {NUM_LEVELS} (all levels), got {self.frozen_stages}"
            )
        if self.norms:
            self.norm = {str(level): LayerNorm(wide_type(self.model.dtype)) for level in self.levels}

    def __call__(
        self, images: jax.Array, *, train: bool = False, example_index: jax.Array | None = None
    ) -> list[jax.Array]:
        maps = self.model.features(images, train=train, example_index=example_index, frozen_stages=self.frozen_stages)
        if not self.norms:
            return [widen(maps[level]) for level in self.levels]
        return [self.norm[str(level)](maps[level]) for level in self.levels]

    def trainable(self, params: dict[str, Any]) -> dict[str, Any]:
        """A tree like `params`, False where frozen: for `optax.masked`, since weight decay needs no gradient."""
        frozen = ["patch_embed"] if self.frozen_stages >= 0 else []
        frozen += [f"levels_{level}" for level in range(self.frozen_stages)]
        return dict(path_aware_map(lambda path, _: not any(path[:2] == ("model", name) for name in frozen), params))
