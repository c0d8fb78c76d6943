"""Floating-point operations of a traced function, counted from its equations.

    matrix product [M K] [K N]: 2 M N K;  convolution: 2 (outputs) (numbers of a kernel per output)

as papers count them: nothing for what is element by element, everything for what a kernel reads of
its padding. The compiler's own count sees the body of a loop once; this one as often as it runs.
A kernel in Pallas counts what it does for one block as often as it has blocks.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr


def count_flops(jaxpr: ClosedJaxpr | Jaxpr) -> float:
    """Operations of matrix products and convolutions, those in loops as often as they run.

    A `while` loop whose length is not written anywhere counts as one turn; of branches the dearest
    counts.
    """
    inner = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    return sum(_equation(each) for each in inner.eqns)


def inside(params: dict[str, Any]) -> Iterator[ClosedJaxpr | Jaxpr]:
    """The functions that an equation with these parameters calls."""
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, ClosedJaxpr | Jaxpr):
                yield each


def _equation(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name in _COUNTED:
        shapes = [variable.aval.shape for variable in equation.invars]
        return _COUNTED[name](params, *shapes, equation.outvars[0].aval.shape)
    parts = [count_flops(part) for part in inside(params)]
    if name == "cond":
        return max(parts)
    return sum(parts) * _TIMES[name](params) if name in _TIMES else sum(parts)


def _product(params: dict[str, Any], left: tuple, right: tuple, out: tuple) -> float:
    (contracted, _), _ = params["dimension_numbers"]
    return 2.0 * math.prod(out) * math.prod(left[axis] for axis in contracted)


def _convolution(params: dict[str, Any], left: tuple, kernel: tuple, out: tuple) -> float:
    features = kernel[params["dimension_numbers"].rhs_spec[0]]
    read = math.prod(kernel) / features
    # Of a dilated input (the gradient of a stride) the kernel mostly meets inserted zeros.
    return 2.0 * math.prod(out) * read / math.prod(params["lhs_dilation"])


def _blocks(params: dict[str, Any]) -> float:
    """How often a kernel's body runs, less what it computes again of attention's forward pass."""
    name = params["name"] or ""
    share = next((part for start, part in _NOT_AGAIN.items() if name.startswith(start)), 1.0)
    return math.prod(params["grid_mapping"].grid) * share


_TIMES: dict[str, Callable[[dict[str, Any]], float]] = {
    "scan": lambda params: params["length"],
    "shard_map": lambda params: params["mesh"].size,  # shapes in it are those of one device
    "pallas_call": _blocks,
}
"""How often what is inside an equation runs."""

_NOT_AGAIN = {"splash_mha_dkv": 4 / 5}
"""Name of a kernel -> the part of its products that no kernel can do without: of the five in the
backward pass of attention, all but q k^T, which is computed again only to be fast."""

_COUNTED = {"dot_general": _product, "conv_general_dilated": _convolution}
