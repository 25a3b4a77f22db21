"""Hand-written gradients that leave all other derivatives to JAX, as `jax.custom_vjp` does not.

A function with one can also be differentiated forwards, or its gradient again, by the derivatives of its operations.
Linearized, it is one operation, linear in the tangents, which holds what both directions need: evaluated, it is
JAX's derivative of the function; transposed, the hand-written gradient. A program that only takes gradients holds the
latter alone, as with `jax.custom_vjp`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Leaves = list[Any]


class CustomGradient:
    """`function` with `backward(*static, saved, gradient)` for a gradient, used as `jax.custom_vjp` is.

    `forward(*arguments)` returns the function's value and what is saved; `nondiff_argnums` are the last arguments, and
    hashable. Where some arrays vary over the devices of a `jax.shard_map`, all are made to: the gradient of one that
    does not is then summed over the devices, by the rules of `jax.lax.pcast`.
    """

    def __init__(self, function: Callable[..., Any], nondiff_argnums: tuple[int, ...] = ()) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self._static_count = len(nondiff_argnums)
        self._call = jax.custom_jvp(lambda static, *arrays: function(*arrays, *static), nondiff_argnums=(0,))
        self._call.defjvp(self._linearize)

    def defvjp(self, forward: Callable[..., Any], backward: Callable[..., Any]) -> None:
        """Sets both halves of the gradient."""
        self._forward, self.backward = forward, backward

    def __call__(self, *arguments: Any) -> Any:
        count = len(arguments) - self._static_count
        return self._call(arguments[count:], *varying_alike(arguments[:count]))

    def _linearize(self, static: tuple[Any, ...], primals: Any, tangents: Any) -> tuple[Any, Any]:
        value, saved = self._forward(*primals, *static)
        known, structure = jax.tree.flatten((primals, saved))
        tangents = [t for x, t in zip(jax.tree.leaves(primals), jax.tree.leaves(tangents), strict=True) if _is_real(x)]
        values, value_structure = jax.tree.flatten(value)
        rule = _Rule(self, static, structure, value_structure)
        avals = tuple(map(jax.typeof, values))
        found = _linear.bind(*known, *tangents, rule=rule, known_count=len(known), avals=avals)
        return value, jax.tree.unflatten(value_structure, found)


def custom_gradient(nondiff_argnums: tuple[int, ...] = ()) -> Callable[[Callable[..., Any]], CustomGradient]:
    """The decorator for functions with a `CustomGradient`."""
    return lambda function: CustomGradient(function, nondiff_argnums)


@dataclasses.dataclass(frozen=True)
class _Rule:
    """Both directions of a linearized function, on leaves: `known` are its arguments and what it saved.

    `axes` are those of `known` that each enclosing `jax.vmap` maps, innermost first.
    """

    gradient: CustomGradient
    static: tuple[Any, ...]
    structure: Any
    value_structure: Any
    axes: tuple[tuple[int | None, ...], ...] = ()

    def evaluate(self, known: Leaves, tangents: Leaves) -> Leaves:
        return self._mapped(self._evaluate)(known, tangents)

    def transpose(self, known: Leaves, cotangents: Leaves) -> Leaves:
        return self._mapped(self._transpose)(known, cotangents)

    def _mapped(self, function: Callable[[Leaves, Leaves], Leaves]) -> Callable[[Leaves, Leaves], Leaves]:
        for axes in self.axes:
            function = jax.vmap(function, in_axes=(list(axes), 0))
        return function

    def _evaluate(self, known: Leaves, tangents: Leaves) -> Leaves:
        primals, _ = jax.tree.unflatten(self.structure, known)
        leaves, structure = jax.tree.flatten(primals)

        def function(*leaves: Any) -> Any:
            return self.gradient.function(*jax.tree.unflatten(structure, leaves), *self.static)

        return jax.tree.leaves(derivative(function, leaves, list(map(_is_real, leaves)), tangents))

    def _transpose(self, known: Leaves, cotangents: Leaves) -> Leaves:
        primals, saved = jax.tree.unflatten(self.structure, known)
        cotangent = jax.tree.unflatten(self.value_structure, cotangents)
        gradients = self.gradient.backward(*self.static, saved, cotangent)
        # An argument without a gradient, such as a mask, may have None for one.
        gradients = jax.tree.map(
            lambda primal, gradient: jax.tree.map(jnp.zeros_like, primal) if gradient is None else gradient,
            tuple(primals),
            tuple(gradients),
            is_leaf=lambda x: x is None,
        )
        pairs = zip(jax.tree.leaves(tuple(primals)), jax.tree.leaves(gradients), strict=True)
        return [gradient for primal, gradient in pairs if _is_real(primal)]


def derivative(function: Callable[..., Any], leaves: Leaves, moving: list[bool], directions: Leaves) -> Any:
    """That of `function(*leaves)` along `directions`, one for each leaf that is `moving`."""

    def at(moved: Leaves) -> Any:
        rest = iter(moved)
        return function(*(next(rest) if moves else x for x, moves in zip(leaves, moving, strict=True)))

    return jax.jvp(at, ([x for x, moves in zip(leaves, moving, strict=True) if moves],), (directions,))[1]


def _is_real(x: Any) -> bool:
    return jnp.issubdtype(jax.typeof(x).dtype, jnp.inexact)


def _axes_of(x: Any) -> frozenset[Any]:
    """The axes of `jax.shard_map` over which `x` varies."""
    return jax.typeof(x).manual_axis_type.varying


def varying_alike(arrays: Any) -> Any:
    """A tree of arrays that all vary over the axes of `jax.shard_map` over which one of them does."""
    axes = frozenset[Any]().union(*(_axes_of(x) for x in jax.tree.leaves(arrays)))

    def vary(x: jax.Array) -> jax.Array:
        missing = tuple(sorted(axes - _axes_of(x)))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(vary, arrays) if axes else arrays


def _split(leaves: Any, known_count: int) -> tuple[Leaves, Leaves]:
    return list(leaves[:known_count]), list(leaves[known_count:])


def _evaluate(*leaves: Any, rule: _Rule, known_count: int, avals: tuple[Any, ...]) -> Leaves:
    return rule.evaluate(*_split(leaves, known_count))


def _jvp(primals: Any, tangents: Any, **parameters: Any) -> tuple[Any, Any]:
    known, inner = _split(primals, parameters["known_count"])
    known_tangents, inner_tangents = _split(tangents, parameters["known_count"])
    values = _linear.bind(*primals, **parameters)
    # Linear in the tangents, this half remains transposable by hand.
    found = _linear.bind(*known, *map(ad.instantiate_zeros, inner_tangents), **parameters)
    moving = [not isinstance(t, ad.Zero) and _is_real(x) for x, t in zip(known, known_tangents, strict=True)]
    if not any(moving):
        return values, found

    def at(*known: Any) -> Leaves:
        return _evaluate(*known, *inner, **parameters)

    directions = [t for t, moves in zip(known_tangents, moving, strict=True) if moves]
    return values, list(map(jnp.add, found, derivative(at, known, moving, directions)))


def _transpose(cotangents: Any, *leaves: Any, rule: _Rule, known_count: int, avals: tuple[Any, ...]) -> Leaves:
    known, tangents = _split(leaves, known_count)
    gradients = rule.transpose(known, list(map(ad.instantiate_zeros, cotangents)))
    asked = map(ad.is_undefined_primal, tangents)
    return [None] * known_count + [
        gradient if is_asked else None for gradient, is_asked in zip(gradients, asked, strict=True)
    ]


def _batch(leaves: Any, axes: Any, *, rule: _Rule, known_count: int, avals: tuple[Any, ...]) -> tuple[Leaves, Any]:
    size = next(x.shape[axis] for x, axis in zip(leaves, axes, strict=True) if axis is not None)
    known, tangents = _split(leaves, known_count)
    known_axes, tangent_axes = _split(axes, known_count)
    tangents = [batching.bdim_at_front(x, axis, size) for x, axis in zip(tangents, tangent_axes, strict=True)]
    rule = dataclasses.replace(rule, axes=(*rule.axes, tuple(known_axes)))
    avals = tuple(aval.update(shape=(size, *aval.shape)) for aval in avals)
    found = _linear.bind(*known, *tangents, rule=rule, known_count=known_count, avals=avals)
    return found, [0] * len(found)


_linear = Primitive("linearized")
_linear.multiple_results = True
_linear.def_impl(_evaluate)
_linear.def_abstract_eval(lambda *_, avals, **__: avals)
mlir.register_lowering(_linear, mlir.lower_fun(_evaluate, multiple_results=True))
ad.primitive_jvps[_linear] = _jvp
ad.primitive_transposes[_linear] = _transpose
batching.primitive_batchers[_linear] = _batch
