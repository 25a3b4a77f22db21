"""Kernels that are traced when a program for TPUs is lowered, so that programs for other platforms do not pay for them.

`jax.lax.platform_dependent` traces its branches for all platforms. Tracing a Pallas kernel takes a twentieth of a
second, and a training step has a hundred; here a branch holds one operation, whose results' shapes are known without.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def traced_late(function: Callable[..., Any], shapes: Any, *arrays: Any, **settings: Any) -> Any:
    """`function(*arrays, **settings)`, whose result has `shapes`, a tree of `jax.ShapeDtypeStruct`s.

    Settings must be hashable. It has no gradient: use it within `jax.custom_vjp`.
    """
    leaves, structure = jax.tree.flatten(arrays)
    shape_leaves, result_structure = jax.tree.flatten(shapes)
    avals = tuple(jax.core.ShapedArray(shape.shape, shape.dtype) for shape in shape_leaves)
    parameters = {"function": function, "structure": structure, "settings": tuple(settings.items()), "avals": avals}
    return jax.tree.unflatten(result_structure, _late_call.bind(*leaves, **parameters))


def shapes_of(tree: Any, dtype: Any = None) -> Any:
    """The shapes of a tree of arrays, for results like them, of their types or all of `dtype`."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype or x.dtype), tree)


def _call(
    *leaves: jax.Array,
    function: Callable[..., Any],
    structure: Any,
    settings: tuple[tuple[str, Any], ...],
    avals: tuple[Any, ...],
) -> list[jax.Array]:
    return jax.tree.leaves(function(*jax.tree.unflatten(structure, leaves), **dict(settings)))


def _zeros(*_: jax.Array, avals: tuple[Any, ...], **__: Any) -> list[jax.Array]:
    return [jnp.zeros(aval.shape, aval.dtype) for aval in avals]


def _call_batched(leaves: Any, axes: Any, **parameters: Any) -> tuple[list[jax.Array], list[int]]:
    results = jax.vmap(lambda *leaves: _call(*leaves, **parameters), in_axes=axes)(*leaves)
    return results, [0] * len(results)


_late_call = Primitive("late_call")
_late_call.multiple_results = True
_late_call.def_impl(_call)
_late_call.def_abstract_eval(lambda *_, avals, **__: avals)
mlir.register_lowering(_late_call, mlir.lower_fun(_call, multiple_results=True), platform="tpu")
# In a program for several platforms, what stands in the TPU's branch for the others, which never run it.
mlir.register_lowering(_late_call, mlir.lower_fun(_zeros, multiple_results=True))
batching.primitive_batchers[_late_call] = _call_batched


def _undefined(*_: jax.Array, avals: tuple[Any, ...]) -> list[jax.Array]:
    raise NotImplementedError(
        "the network's TPU kernels have first derivatives only: for derivatives of gradients on a TPU, ask for the "
        "layers by making the collection 'intermediates' mutable in apply"
    )


def _late_call_jvp(primals: Any, tangents: Any, **parameters: Any) -> tuple[Any, Any]:
    # Other platforms may differentiate gradients again, and trace this branch too.
    results = _late_call.bind(*primals, **parameters)
    tangents = [ad.instantiate_zeros(t) for x, t in zip(primals, tangents, strict=True) if _is_inexact(x)]
    return results, _no_derivative.bind(*tangents, avals=parameters["avals"])


def _is_inexact(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


def _no_derivative_transpose(cotangents: Any, *tangents: Any, avals: Any) -> list[Any]:
    return _no_derivative.bind(
        *map(ad.instantiate_zeros, cotangents), avals=tuple(tangent.aval for tangent in tangents)
    )


_no_derivative = Primitive("no_derivative")
_no_derivative.multiple_results = True
_no_derivative.def_abstract_eval(lambda *_, avals: avals)
mlir.register_lowering(_no_derivative, mlir.lower_fun(_undefined, multiple_results=True), platform="tpu")
mlir.register_lowering(_no_derivative, mlir.lower_fun(_zeros, multiple_results=True))
ad.primitive_jvps[_late_call] = _late_call_jvp
ad.primitive_transposes[_no_derivative] = _no_derivative_transpose
