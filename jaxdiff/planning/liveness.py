"""How many bytes a traced function keeps and moves, estimated from its equations in their order.

An array is kept from the equation that makes it to the last one that reads it, and moves once when
it is made and once for each that reads it. What is made number by number and read once is taken to
be fused with its reader, and a copy in another form to cost nothing: about what compilers do. They
also reorder, and compute cheap things twice, so this is a guide to choose by and no measurement.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from jaxdiff.training.flops import inside

_VIEWS = (
    "reshape",
    "squeeze",
    "expand_dims",
    "transpose",
    "broadcast_in_dim",
    "copy",
    "stop_gradient",
)
_STORED = (
    "dot_general",
    "conv_general_dilated",
    "concatenate",
    "checkpoint",
    "remat2",
    "scan",
    "while",
    "cond",
    "pallas_call",
)


class Kept(NamedTuple):
    """Bytes of the arrays that a function makes; its arguments are not counted."""

    peak: float
    """At the worst moment."""
    at_first: float
    """When its first result is there: of a gradient after the loss, what was saved for it."""
    moved: float
    """Written and read in all."""


def kept_bytes(jaxpr: ClosedJaxpr | Jaxpr, counts: Callable[[int], bool]) -> Kept:
    """Follow a function from equation to equation.

    Args:
      jaxpr: the function.
      counts: bytes of an array -> whether to count it.
    """
    inner = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    uses = _Uses(inner)
    held: dict[Any, float] = {}
    peak, at_first, moved = 0.0, None, 0.0
    for number, equation in enumerate(inner.eqns):
        made = {v: _size(v) for v in equation.outvars if uses.stored(equation, v)}
        made = {v: size for v, size in made.items() if counts(size)}
        held |= made
        kernel = equation.primitive.name == "pallas_call"  # what it makes inside stays on the chip
        parts = [] if kernel else [kept_bytes(part, counts) for part in inside(equation.params)]
        extra = max((part.peak for part in parts), default=0.0) - sum(made.values())
        peak = max(peak, sum(held.values()) + max(extra, 0.0))
        turns = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        moved += turns * sum(part.moved for part in parts)
        moved += sum(size * (uses.reads(v) + (not parts)) for v, size in made.items())
        if at_first is None and inner.outvars[0] in equation.outvars:
            at_first = sum(held.values())
        for variable in uses.ending(number):
            held.pop(variable, None)
    return Kept(peak, at_first or 0.0, moved)


class _Uses:
    """Who reads what in a function, reshaped arrays counted as one."""

    def __init__(self, jaxpr: Jaxpr):
        views = [each for each in jaxpr.eqns if _is_view(each)]
        self._source = {each.outvars[0]: each.invars[0] for each in views}
        reads = [_variables(map(self._root, _variables(each.invars))) for each in jaxpr.eqns]
        self._kept = set(_variables(map(self._root, _variables(jaxpr.outvars))))
        self._count = Counter(v for each in reads for v in set(each))
        last = {v: number for number, each in enumerate(reads) for v in each}
        self._ending: dict[int, list] = {}
        for variable, number in last.items():
            if variable not in self._kept:
                self._ending.setdefault(number, []).append(variable)

    def _root(self, variable: Any) -> Any:
        while not isinstance(variable, Literal) and variable in self._source:
            variable = self._source[variable]
        return variable

    def reads(self, variable: Any) -> int:
        """How many equations read an array."""
        return self._count[variable]

    def ending(self, number: int) -> list:
        """The arrays that equation `number` is the last to read."""
        return self._ending.get(number, [])

    def stored(self, equation: Any, variable: Any) -> bool:
        """Whether what an equation makes is written to memory."""
        if variable in self._source or not (self._count[variable] or variable in self._kept):
            return False
        once = self._count[variable] == 1 and variable not in self._kept
        return not (once and _is_elementwise(equation))


def _is_view(equation: Any) -> bool:
    """Whether an equation's readers can as well read what it reads: a wider type is one, too."""
    if equation.primitive.name == "convert_element_type":
        return _item(equation.outvars[0]) > _item(equation.invars[0])
    return equation.primitive.name in _VIEWS


def _is_elementwise(equation: Any) -> bool:
    if equation.primitive.name in _STORED:
        return False
    parts = [p.jaxpr if isinstance(p, ClosedJaxpr) else p for p in inside(equation.params)]
    return all(_is_elementwise(each) for part in parts for each in part.eqns)


def _variables(atoms: Iterable) -> list:
    return [each for each in atoms if not isinstance(each, Literal)]


def _size(variable: Any) -> float:
    return math.prod(variable.aval.shape) * _item(variable)


def _item(variable: Any) -> int:
    return getattr(variable.aval.dtype, "itemsize", 0)
