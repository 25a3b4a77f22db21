"""RandAugment on one image, of which only what was drawn is computed, and on a batch as suits the platform."""

import jax
import jax.numpy as jnp

from gcvit_flax.config import Size
from gcvit_flax.training.augment.operations import BY_GRAY, BY_HISTOGRAM, COLOR, FIRST_OF_KIND, Operation, make_table
from gcvit_flax.training.augment.pillow_ops import blend, grayscale, histogram, interior, look_up, smooth
from gcvit_flax.training.augment.rand_augment_tpu import rand_augment_in_lanes
from gcvit_flax.training.augment.warp import pack, unpack, warp


def rand_augment(planes: jax.Array, operations: Operation, fill: jax.Array) -> jax.Array:
    """Applies operations, arrays (b, n, ...), in turn to uint8 planes (b, 3, H, W).

    Warps uncover the color `fill` (3,).
    """

    def apply_to_one(planes: jax.Array, operations: Operation) -> jax.Array:
        return jax.lax.scan(lambda x, operation: (apply_operation(x, operation, fill), None), planes, operations)[0]

    return jax.lax.platform_dependent(
        planes,
        operations,
        cpu=lambda *batch: jax.lax.map(lambda one: apply_to_one(*one), batch),
        tpu=lambda planes, operations: rand_augment_in_lanes(planes, operations, fill),
        default=jax.vmap(apply_to_one),
    )


def apply_operation(planes: jax.Array, operation: Operation, fill: jax.Array) -> jax.Array:
    """Applies one operation to uint8 planes (3, H, W). Under vmap, all kinds of operations are computed."""
    kind = (operation.number >= jnp.array(FIRST_OF_KIND)).sum()
    branches = (_look_up, _warp, _blend, lambda planes, *_: planes)
    return jax.lax.switch(kind, branches, planes, operation, fill)


def _look_up(planes: jax.Array, operation: Operation, _: jax.Array) -> jax.Array:
    def needs(numbers: list[int]) -> jax.Array:
        return (operation.number == jnp.array(numbers)).any()

    counts = jax.lax.cond(needs(BY_HISTOGRAM), histogram, lambda _: jnp.zeros((3, 256), jnp.int32), planes)
    gray_sum = jax.lax.cond(needs(BY_GRAY), lambda planes: grayscale(planes).sum(), lambda _: jnp.int32(0), planes)
    return look_up(planes, make_table(operation, counts, gray_sum, (planes.shape[1], planes.shape[2])))


def _warp(planes: jax.Array, operation: Operation, fill: jax.Array) -> jax.Array:
    return jnp.stack(unpack(warp(pack(planes), operation.matrix, pack(fill)))).astype(jnp.uint8)


def _blend(planes: jax.Array, operation: Operation, _: jax.Array) -> jax.Array:
    degenerate = jax.lax.cond(operation.number == COLOR, _gray, _smooth, planes)
    return blend(degenerate, planes, operation.factor).astype(jnp.uint8)


def _gray(planes: jax.Array) -> jax.Array:
    return jnp.broadcast_to(grayscale(planes), planes.shape).astype(jnp.float32)


def _smooth(planes: jax.Array) -> jax.Array:
    size: Size = planes.shape[1], planes.shape[2]
    smoothed = jax.vmap(smooth)(jnp.pad(planes, ((0, 0), (1, 1), (0, 0))))
    changed = interior(size, jnp.arange(size[0])[:, None], jnp.arange(size[1]))
    return jnp.where(changed, smoothed, planes.astype(jnp.float32))
