"""Milliseconds of the network's pieces with our kernels and with plain ones, for `benchmarks.accelerator`."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from benchmarks.ours import machine
from benchmarks.timing import seconds_per_call
from gcvit_flax.config import GCViTConfig, level_grids
from gcvit_flax.devices import compiler_options, enable_compilation_cache, simulate_devices
from gcvit_flax.model.attention import WindowAttention
from gcvit_flax.model.block import Block
from gcvit_flax.model.convs import MBConv, PatchEmbed, ReduceSize
from gcvit_flax.model.gcvit import create_model
from gcvit_flax.model.global_query import GlobalQueryGenerator
from gcvit_flax.model.kernels import plain
from gcvit_flax.model.kernels.attention_by_heads import split_heads
from gcvit_flax.model.rematerialize import rematerialization_policy
from gcvit_flax.training.augment.augment import augment
from gcvit_flax.training.augment.mixing import mix
from gcvit_flax.training.presets import PRESETS

_MODEL = "gcvit_flax.model."


def _plain_attention(
    qkv: jax.Array, query: jax.Array | None, bias: jax.Array, key_mask: jax.Array | None, num_heads: int, scale: float
) -> jax.Array:
    x = plain.windowed_attention(*split_heads(qkv, query, num_heads, scale), bias, key_mask)
    return rearrange(x, "B n h T d -> B n T (h d)")


# Where the network names its kernels, and what takes their place in the plain form.
_PLAIN = {
    "attention.windowed_attention": _plain_attention,
    "convs.add_bias": lambda x, bias: x + bias.astype(x.dtype),
    "convs.fit_kernels": lambda *_: False,
    "convs.depthwise_conv3x3": plain.depthwise_conv3x3,
    "convs.strided_conv3x3": plain.strided_conv3x3,
    "convs.gelu": plain.gelu,
    "block.cpu_barrier": lambda x: x,
    "block.gelu": plain.gelu,
    "block.fit_branch": lambda *_: False,
    "kernels.dense.dense": plain.dense,
    "layers.layer_norm": lambda x, *arguments: plain.layer_norm(x.astype(jnp.float32), *arguments),
    "global_query.max_pool3x3": plain.max_pool3x3,
}

TIMES = ("forward", "forward_plain", "gradients", "gradients_plain")

Function = Callable[..., Any]
Program = Callable[[int], None]  # Calls so many times and waits.


def measure(
    variant: str, batch: int, dtype: str, image_size: int, network: dict[str, Any], seconds: float
) -> Iterator[dict]:
    """Each piece's forward pass and gradients, ours and the plain form's in turns, on one device."""
    simulate_devices(1)
    enable_compilation_cache()
    yield machine()
    empty = seconds_per_call({"call": _program(lambda x: x + 1, jnp.float32(0))}, seconds)["call"]
    of = {"variant": variant, "batch": batch, "dtype": dtype, "empty_call": empty * 1e3}
    model = create_model(variant, image_size=image_size, **network)
    for name, (module, shapes) in _pieces(model.config, batch, jnp.dtype(dtype)).items():
        times = seconds_per_call(_programs(module, shapes, jnp.dtype(dtype)), seconds)
        yield {"table": "pieces", "piece": name} | of | {what: taken * 1e3 for what, taken in times.items()}
    for preset in ("imagenet", "finetune"):
        times = seconds_per_call({"forward": _augmentation(preset, model, batch)}, seconds)
        row = {"piece": f"augmentation of the preset {preset}", "forward": times["forward"] * 1e3}
        yield {"table": "pieces"} | of | row


def _pieces(config: GCViTConfig, batch: int, dtype: Any) -> dict[str, tuple[nn.Module, list[tuple[int, ...]]]]:
    """Modules and the shapes of what they are called with, the most telling first."""
    maps = [(batch, *grid, dim) for grid, dim in zip(level_grids(config.image_size), config.dims, strict=True)]
    height, width = config.image_size
    stem = (batch, -(-height // 2), -(-width // 2), config.embed_dim)
    pieces: dict[str, tuple[nn.Module, list[tuple[int, ...]]]] = {
        "stem": (PatchEmbed(config.embed_dim, dtype), [(batch, height, width, 3)]),
        "MBConv in the stem": (MBConv(dtype), [stem]),
    }
    for level in (0, 2, 1, 3):
        pieces |= _blocks(config, level, maps[level], dtype)
        if level < len(maps) - 1:
            downsample = ReduceSize(config.dims[level + 1], dtype)
            pieces[f"downsampling after level {level}"] = downsample, [maps[level]]
        if config.query_stages[level]:
            window, stages = config.window_size[level], config.query_stages[level]
            query = GlobalQueryGenerator(stages, window, config.query_pool_padding, dtype)
            pieces[f"global query, level {level}"] = query, [maps[level]]
    return pieces


def _blocks(
    config: GCViTConfig, level: int, shape: tuple[int, ...], dtype: Any
) -> dict[str, tuple[nn.Module, list[tuple[int, ...]]]]:
    window, (batch, height, width, channels) = config.window_size[level], shape
    tokens = window[0] * window[1]
    windows = (batch, height * width // tokens, tokens, channels)
    layers = {
        "num_heads": config.num_heads[level],
        "window": window,
        "qkv_bias": config.qkv_bias,
        "qk_scale": config.qk_scale,
        "bias_layout": config.relative_position_bias,
        "attention_dropout_rate": 0.0,
        "dropout_rate": 0.0,
        "dtype": dtype,
    }
    block = Block(channels=channels, mlp_ratio=config.mlp_ratio, layer_scale=config.layer_scale, **layers)
    pieces: dict[str, tuple[nn.Module, list[tuple[int, ...]]]] = {}
    for what, module in (("block", block), ("attention", WindowAttention(**layers))):
        pieces[f"local {what}, level {level}"] = module, [windows]
        pieces[f"global {what}, level {level}"] = module, [windows, (batch, tokens, channels)]
    return pieces


def _programs(module: nn.Module, shapes: list[tuple[int, ...]], dtype: Any) -> dict[str, Program]:
    rng = np.random.default_rng(0)
    inputs = [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]
    trained = {"train": True} if isinstance(module, (Block, WindowAttention)) else {}
    apply = functools.partial(module.apply, **trained)
    variables = jax.jit(lambda key: module.init(key, *inputs, **trained))(jax.random.key(0))
    cotangent = jnp.ones_like(jax.eval_shape(apply, variables, *inputs))
    checkpointed = jax.checkpoint(apply, policy=rematerialization_policy(train=True, remat=False))
    programs = {
        "forward": _program(apply, variables, *inputs),
        "gradients": _program(_gradients(checkpointed), cotangent, variables, *inputs),
    }
    with plain_kernels():
        programs["forward_plain"] = _program(apply, variables, *inputs)
        programs["gradients_plain"] = _program(_gradients(apply), cotangent, variables, *inputs)
    return programs


def _gradients(function: Function) -> Function:
    return lambda cotangent, *inputs: jax.vjp(function, *inputs)[1](cotangent)


def _program(function: Function, *arguments: Any) -> Program:
    device = jax.local_devices()[0]
    arguments = jax.device_put(arguments, device)
    # A function of its own, which JAX has not traced before with other kernels.
    compiled = jax.jit(lambda *arguments: function(*arguments)).lower(*arguments).compile(compiler_options(device))

    def run(calls: int) -> None:
        for _ in range(calls):
            results = compiled(*arguments)
        jax.block_until_ready(results)

    return run


@contextlib.contextmanager
def plain_kernels() -> Iterator[None]:
    """What the network is made of meanwhile computes with plain kernels."""
    with contextlib.ExitStack() as stack:
        for name, function in _PLAIN.items():
            stack.enter_context(mock.patch(_MODEL + name, function))
        yield


def _augmentation(preset: str, model: Any, batch: int) -> Program:
    config = PRESETS[preset]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, *model.config.image_size, 3), dtype=np.uint8)
    targets = jax.nn.one_hot(rng.integers(0, model.config.num_classes, batch), model.config.num_classes)

    def function(key: jax.Array, images: jax.Array, index: jax.Array, targets: jax.Array) -> tuple[jax.Array, ...]:
        images = augment(key, images, index, model.preprocessing, config)
        return mix(key, images, targets, config.mixup, config.cutmix)

    return _program(function, jax.random.key(0), images, jnp.arange(batch), targets)
