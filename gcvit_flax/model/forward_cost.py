"""The multiply-adds and activations of a network's forward pass, counted in its traced program, part by part."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr

from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.model.init import abstract_params

# In a module's path, such as GCViT/GCViT.features/levels_0/blocks_1/mlp.
_PART, _BLOCK = re.compile(r"/(patch_embed|levels_\d+|head)(?=/|$)"), re.compile(r"/blocks_(\d+)(?=/|$)")


@dataclasses.dataclass(frozen=True)
class Cost:
    """Multiply-adds of matrix products and convolutions, the values that these return, and whether one convolves."""

    multiply_adds: int = 0
    activations: int = 0
    convolution: bool = False

    def __add__(self, other: "Cost") -> "Cost":
        macs, activations = self.multiply_adds + other.multiply_adds, self.activations + other.activations
        return Cost(macs, activations, self.convolution or other.convolution)

    def __mul__(self, times: int) -> "Cost":
        return Cost(times * self.multiply_adds, times * self.activations, self.convolution)


Located = tuple[str, int | None, Cost]  # The part of the network, its block there, and the cost.


def forward_costs(model: GCViT) -> Mapping[str, Cost]:
    """The costs for one image of the stem ("patch_embed"), "levels_0" to "levels_3" and "head"; nothing is computed."""
    # As in the tree of parameters, two blocks stand for all of a level.
    depths = model.config.depths
    config = dataclasses.replace(model.config, depths=tuple(min(depth, 2) for depth in depths))
    short = model.clone(config=config)
    images = jax.ShapeDtypeStruct((1, *model.preprocessing.image_size, config.in_channels), jnp.float32)
    traced = jax.make_jaxpr(short.apply)({"params": abstract_params(short)}, images)
    costs: dict[str, Cost] = collections.defaultdict(Cost)
    for part, block, cost in _costs(traced.jaxpr, "", 0):
        times = 1 if block is None else len(range(block, depths[int(part[-1])], 2))
        costs[part] += cost * times
    return costs


def _costs(jaxpr: Jaxpr, part: str, block: int | None) -> Iterator[Located]:
    """Each operation's cost; `part` and `block` are those of what calls the program."""
    for equation in jaxpr.eqns:
        here, path = (part, block), str(equation.source_info.name_stack)
        if found := _PART.search(path):
            block_found = _BLOCK.search(path)
            here = found[1], int(block_found[1]) if block_found else None
        name = equation.primitive.name
        if name in ("dot_general", "conv_general_dilated"):
            yield *here, _product(equation, name)
        elif name == "cond":  # An operation's forms for several platforms.
            yield from min(([*_costs(form.jaxpr, *here)] for form in equation.params["branches"]), key=_plainness)
        else:
            times = equation.params["length"] if name == "scan" else 1
            for inner in _inside(equation):
                yield from ((where, number, cost * times) for where, number, cost in _costs(inner, *here))


def _plainness(costs: list[Located]) -> tuple[bool, int]:
    """Orders forms of one operation: a convolution before sums of shifts, a look-up before products with zeros."""
    return not any(cost.convolution for *_, cost in costs), sum(cost.multiply_adds for *_, cost in costs)


def _inside(equation: Any) -> Iterator[Jaxpr]:
    """The programs that an operation calls; of a kernel that is traced late, its reference."""
    if "reference" in equation.params:
        structure, settings = equation.params["structure"], dict(equation.params["settings"])
        shapes = [jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype) for x in equation.invars]
        arrays = jax.tree.unflatten(structure, shapes)
        yield jax.make_jaxpr(lambda *arrays: equation.params["reference"](*arrays, **settings))(*arrays).jaxpr
        return
    for value in equation.params.values():
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value


def _product(equation: Any, name: str) -> Cost:
    out = equation.outvars[0].aval.size
    left, right = (x.aval.shape for x in equation.invars)
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return Cost(out * math.prod(left[axis] for axis in contracted), out)
    features = right[equation.params["dimension_numbers"].rhs_spec[0]]
    return Cost(out * math.prod(right) // features, out, convolution=True)
