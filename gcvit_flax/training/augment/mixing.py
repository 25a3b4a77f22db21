"""Mixup (Zhang et al., 2018) and CutMix (Yun et al., 2019): images and targets mixed with those of a partner.

The partner of example i is i XOR 1, its neighbor: pairs lie on one device, so that the result does not depend on how
many there are.
"""

import jax
import jax.numpy as jnp
from einops import rearrange

from gcvit_flax.config import Size
from gcvit_flax.errors import UserError
from gcvit_flax.training.augment.erasing import rectangle


def mix(
    key: jax.Array,
    images: jax.Array,
    targets: jax.Array,
    mixup: float,
    cutmix: float,
    active: jax.Array | bool = True,
) -> tuple[jax.Array, jax.Array]:
    """Mixes images (b, H, W, 3) and targets (b, classes) with their partners', by Mixup or CutMix.

    `mixup` and `cutmix` are the parameters of the beta distributions, 0 for none; with both, each is drawn with
    probability one half. `key` is the step's, the same on all devices, so that they all mix alike. Nothing is mixed
    where `active` is False.

    Raises:
      UserError: (a ValueError) an odd number of images.
    """
    if not (mixup or cutmix):
        return images, targets
    if len(images) % 2:
        raise UserError(
            f"Mixup and CutMix mix pairs, so each device needs an even number of images at a time, got "
            f"{len(images)}: change --batch-size, or set --mixup 0 --cutmix 0"
        )
    kind_key, share_key, box_key = jax.random.split(key, 3)
    is_cutmix = jax.random.bernoulli(kind_key, 0.5 if mixup and cutmix else float(cutmix > 0))
    alpha = jnp.where(is_cutmix, cutmix, mixup)
    share = jnp.where(active, jax.random.beta(share_key, alpha, alpha), 1.0)
    outside = 1.0 - random_box(box_key, (images.shape[1], images.shape[2]), 1 - share)  # (H, W, 1)
    # Both branches are one formula; the cond keeps XLA from augmenting each image a second time for its partner.
    images = jax.lax.cond(is_cutmix, lambda x: _mix(x, outside), lambda x: _mix(x, share), images)
    # Where the border cuts the box, more of the image is left than was drawn.
    return images, _mix(targets, jnp.where(is_cutmix, outside.mean(), share))


def _mix(x: jax.Array, kept: jax.Array) -> jax.Array:
    pairs = rearrange(x, "(pairs two) ... -> two pairs ...", two=2)
    return rearrange(kept * pairs + (1 - kept) * pairs[::-1], "two pairs ... -> (pairs two) ...")


def random_box(key: jax.Array, size: Size, area: jax.Array) -> jax.Array:
    """The mask of a box with the image's aspect ratio and, inside the image, a share `area` of it: bool (H, W, 1).

    Its center is uniform in the image (Yun et al., 2019, equation 2), so that the border may cut it.
    """
    middle_key, center_key = jax.random.split(key)
    middle = jax.random.randint(middle_key, (), 0, size[0])
    center = jax.random.randint(center_key, (), 0, size[1])
    half_rows, half_columns = (jnp.int32(side * jnp.sqrt(area)) // 2 for side in size)
    return rectangle(size, middle - half_rows, center - half_columns, 2 * half_rows, 2 * half_columns)
