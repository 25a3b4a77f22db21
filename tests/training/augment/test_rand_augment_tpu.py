"""RandAugment's kernels for TPUs, interpreted on the CPU, against the plain form, and what the TPU's program holds."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data

from gcvit_flax.config import Preprocessing
from gcvit_flax.training.augment.augment import augment
from gcvit_flax.training.augment.mixing import mix
from gcvit_flax.training.augment.operations import NO_OPERATION, OPERATIONS, WARPS, operation
from gcvit_flax.training.augment.rand_augment import rand_augment
from gcvit_flax.training.augment.rand_augment_kernels import take_lanes
from gcvit_flax.training.augment.rand_augment_tpu import rand_augment_in_lanes
from gcvit_flax.training.presets import PRESETS

# Two blocks of rows, and two registers of columns, the second not full.
SIZE = (44, 140)
WARP_NUMBERS = [OPERATIONS.index(name) for name in WARPS]
# Each operation once before and once after another.
NUMBERS = np.array([(i, (i + 4) % (NO_OPERATION + 1)) for i in range(NO_OPERATION + 1)])
LEVELS = np.where(np.arange(NUMBERS.size).reshape(NUMBERS.shape) % 3, 0.93, -0.71).astype(np.float32)


@pytest.fixture(scope="module")
def applied():
    """(16, 3, 44, 140) by the kernels and by the plain form."""
    photo = skimage.data.chelsea()[60:104, 90:230]
    photos = [np.moveaxis(x, -1, 0) for x in (photo, photo[::-1] // 2 + 40, photo[:, ::-1])]
    planes = np.stack([photos[i % 3] for i in range(len(NUMBERS))])
    operations = jax.jit(jax.vmap(jax.vmap(lambda number, level: operation(number, level, SIZE))))(NUMBERS, LEVELS)
    arguments = planes, operations, jnp.uint8([124, 116, 104])
    interpreted = jax.jit(lambda *arguments: rand_augment_in_lanes(*arguments, interpret=True))
    return tuple(np.asarray(run(*arguments), int) for run in (interpreted, jax.jit(rand_augment)))


@pytest.mark.parametrize("i", range(len(NUMBERS)), ids=[*OPERATIONS, "none"])
def test_kernels_do_the_same(applied, i):
    ours, expected = (both[i] for both in applied)
    if np.isin(NUMBERS[i], WARP_NUMBERS).any():
        # XLA rounds the coordinates of warps differently in the two, which shows in a value or two.
        assert (ours != expected).mean() < 2e-4
    else:
        np.testing.assert_array_equal(ours, expected)


def test_lanes_are_taken_from_any_register():
    random = np.random.default_rng(0)
    values, columns = random.integers(0, 1 << 24, (8, 384)), random.integers(0, 384, (8, 256))
    np.testing.assert_array_equal(
        take_lanes(jnp.int32(values), jnp.int32(columns)), np.take_along_axis(values, columns, 1)
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_tpu_programs_gather_and_scatter_no_pixels(preset):
    config = PRESETS[preset]

    def augment_and_mix(key, images, index, targets):
        images = augment(jax.random.wrap_key_data(key), images, index, Preprocessing(), config)
        return mix(jax.random.wrap_key_data(key), images, targets, config.mixup, config.cutmix)

    shapes = (((2,), "uint32"), ((128, 224, 224, 3), "uint8"), ((128,), "int32"), ((128, 10), "float32"))
    traced = jax.jit(augment_and_mix).trace(*(jax.ShapeDtypeStruct(*shape) for shape in shapes))
    program = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert ("rand_augment_operate" in program) == bool(config.rand_augment)
    results = re.findall(r'"stablehlo\.(?:dynamic_)?(?:gather|scatter)".*?-> tensor<([\dx]*)', program, re.DOTALL)
    sizes = [math.prod(int(side) for side in shape.split("x") if side) for shape in results]
    assert max(sizes, default=0) <= 100_000
