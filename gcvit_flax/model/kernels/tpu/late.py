"""Kernels that are traced when a program for TPUs is lowered, so that programs for other platforms do not pay for them.

`jax.lax.platform_dependent` traces its branches for all platforms. Tracing a Pallas kernel takes a twentieth of a
second, and a training step has a hundred; here a branch holds one operation, whose results' shapes are known without.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir


def traced_late(function: Callable[..., Any], shapes: Any, *arrays: Any, **settings: Any) -> Any:
    """`function(*arrays, **settings)`, whose result has `shapes`, a tree of `jax.ShapeDtypeStruct`s.

    Settings must be hashable. It has no gradient: use it within `jax.custom_vjp`.
    """
    leaves, structure = jax.tree.flatten(arrays)
    shape_leaves, result_structure = jax.tree.flatten(shapes)
    avals = tuple(jax.core.ShapedArray(shape.shape, shape.dtype) for shape in shape_leaves)
    parameters = {"function": function, "structure": structure, "settings": tuple(settings.items()), "avals": avals}
    return jax.tree.unflatten(result_structure, _late_call.bind(*leaves, **parameters))


def _call(
    *leaves: jax.Array,
    function: Callable[..., Any],
    structure: Any,
    settings: tuple[tuple[str, Any], ...],
    avals: tuple[Any, ...],
) -> list[jax.Array]:
    return jax.tree.leaves(function(*jax.tree.unflatten(structure, leaves), **dict(settings)))


def _call_batched(leaves: Any, axes: Any, **parameters: Any) -> tuple[list[jax.Array], list[int]]:
    results = jax.vmap(lambda *leaves: _call(*leaves, **parameters), in_axes=axes)(*leaves)
    return results, [0] * len(results)


_late_call = Primitive("late_call")
_late_call.multiple_results = True
_late_call.def_impl(_call)
_late_call.def_abstract_eval(lambda *_, avals, **__: avals)
mlir.register_lowering(_late_call, mlir.lower_fun(_call, multiple_results=True))
batching.primitive_batchers[_late_call] = _call_batched
