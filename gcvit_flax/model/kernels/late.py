"""Kernels of one platform, chosen and traced when a program is lowered.

`jax.lax.platform_dependent` traces its branches for all platforms. Tracing a Pallas kernel takes a twentieth of a
second, and a training step has a hundred; here a branch holds one operation, whose results' shapes are known without.
And a kernel for one device is of no use where XLA divides the program among several, which is known no earlier.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from gcvit_flax.model.kernels.custom_gradient import derivative


def traced_late(
    kernel: Callable[..., Any],
    reference: Callable[..., Any],
    shapes: Any,
    *arrays: Any,
    platform: str = "tpu",
    **settings: Any,
) -> Any:
    """`kernel(*arrays, **settings)` on its platform, whose result has `shapes`, a tree of `jax.ShapeDtypeStruct`s.

    `reference` computes the same for other platforms, where XLA divides the program among devices, as under `jax.jit`
    with several, and for derivatives. Settings must be hashable.
    """
    leaves, structure = jax.tree.flatten(arrays)
    shape_leaves, result_structure = jax.tree.flatten(shapes)
    parameters = {
        "kernel": kernel,
        "reference": reference,
        "platform": platform,
        "structure": structure,
        "settings": tuple(settings.items()),
        "avals": tuple(_result_type(shape, leaves[0]) for shape in shape_leaves),
    }
    return jax.tree.unflatten(result_structure, _late_call.bind(*leaves, **parameters))


def shapes_of(tree: Any, dtype: Any = None) -> Any:
    """The shapes of a tree of arrays, for results like them, of their types or all of `dtype`."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype or x.dtype), tree)


def _result_type(shape: jax.ShapeDtypeStruct, x: jax.Array) -> Any:
    """The type of a result of `shape` that varies over devices as `x` does, and all other arrays."""
    like = jax.typeof(x)
    sharding = like.sharding.update(spec=jax.sharding.PartitionSpec(*[None] * len(shape.shape)))
    return like.update(shape=shape.shape, dtype=shape.dtype, weak_type=False, sharding=sharding)


def _call(
    *leaves: jax.Array, kernel: Callable[..., Any], structure: Any, settings: tuple[tuple[str, Any], ...], **_: Any
) -> list[jax.Array]:
    return jax.tree.leaves(kernel(*jax.tree.unflatten(structure, leaves), **dict(settings)))


def _call_reference(*leaves: jax.Array, reference: Callable[..., Any], **parameters: Any) -> list[jax.Array]:
    return _call(*leaves, **parameters | {"kernel": reference})


def _lower(context: mlir.LoweringRuleContext, *leaves: Any, platform: str, lowered_for: str, **parameters: Any) -> Any:
    program = context.module_context
    call = _call_reference if lowered_for != platform or _is_divided_by_xla(program.axis_context) else _call
    return mlir.lower_fun(call, multiple_results=True)(context, *leaves, **parameters)


def _is_divided_by_xla(context: Any) -> bool:
    """Whether XLA divides the program among devices, along some axis of a mesh at least; kernels it cannot divide."""
    if hasattr(context, "mesh"):
        return set(context.mesh.axis_names) != context.manual_axes | set(context.mesh.manual_axes)
    return getattr(context, "num_devices", 1) > 1


def _jvp(primals: Any, tangents: Any, **parameters: Any) -> tuple[Any, Any]:
    moving = [not isinstance(t, ad.Zero) for t in tangents]
    directions = [t for t, moves in zip(tangents, moving, strict=True) if moves]
    reference = functools.partial(_call_reference, **parameters)
    return _late_call.bind(*primals, **parameters), derivative(reference, list(primals), moving, directions)


def _batch(leaves: Any, axes: Any, **parameters: Any) -> tuple[list[jax.Array], list[int]]:
    results = jax.vmap(lambda *leaves: _call(*leaves, **parameters), in_axes=axes)(*leaves)
    return results, [0] * len(results)


def _run(*leaves: jax.Array, **parameters: Any) -> list[jax.Array]:
    """Outside of `jax.jit`, a program of its own: the platform is not known before one is lowered."""
    return _program(**parameters)(*leaves)


@functools.cache
def _program(**parameters: Any) -> Callable[..., list[jax.Array]]:
    return jax.jit(functools.partial(_late_call.bind, **parameters))


_late_call = Primitive("late_call")
_late_call.multiple_results = True
_late_call.def_impl(_run)
_late_call.def_abstract_eval(lambda *_, avals, **__: avals)
for _platform in ("cpu", "cuda", "rocm", "tpu"):
    mlir.register_lowering(_late_call, functools.partial(_lower, lowered_for=_platform), platform=_platform)
ad.primitive_jvps[_late_call] = _jvp
batching.primitive_batchers[_late_call] = _batch
