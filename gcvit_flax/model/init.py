"""Fresh parameters in one draw."""

import math

import flax
import jax
import jax.numpy as jnp

from gcvit_flax.model.gcvit import GCViT

_CONV_LAYERS = ("depthwise", "pointwise", "reduction")


def init_params(model: GCViT, key: jax.Array) -> dict:
    """The parameter tree of `model.init`, with the same distributions but other draws.

    All random values are drawn at once and cut up: XLA compiles that in about a second, against twenty and more for
    one random generator a parameter.
    """
    images = jax.ShapeDtypeStruct((1, *model.config.image_size, 3), jnp.float32)
    shapes = flax.traverse_util.flatten_dict(jax.eval_shape(model.init, key, images)["params"])
    draw = jax.jit(lambda key: _draw(key, {path: leaf.shape for path, leaf in shapes.items()}, model.config))
    return flax.traverse_util.unflatten_dict(draw(key))


def _draw(key: jax.Array, shapes: dict, config) -> dict:
    size = sum(math.prod(shape) for shape in shapes.values())
    uniform_key, normal_key = jax.random.split(key)
    noise = {
        "uniform": jax.random.uniform(uniform_key, (size,), minval=-1.0),
        "normal": jax.random.normal(normal_key, (size,)),
    }
    params, start = {}, 0
    for path, shape in shapes.items():
        kind, value = _distribution(path, shape, config)
        if kind == "constant":
            params[path] = jnp.full(shape, value, jnp.float32)
            continue
        end = start + math.prod(shape)
        params[path] = value * noise[kind][start:end].reshape(shape)
        start = end
    return params


def _distribution(path: tuple[str, ...], shape: tuple[int, ...], config) -> tuple[str, float]:
    """The kind of a parameter's distribution and its value, bound or standard deviation; see numerics.py."""
    *_, layer, name = path
    stem = path[:2] == ("patch_embed", "proj")
    if name == "scale":
        return "constant", 1.0
    if name in ("gamma1", "gamma2"):
        return "constant", config.layer_scale
    if name == "bias" and not stem:
        return "constant", 0.0
    if stem:
        return "uniform", (3 * 3 * 3) ** -0.5
    if name == "kernel" and layer in _CONV_LAYERS:
        return "uniform", math.prod(shape[:-1]) ** -0.5
    return "normal", 0.02
