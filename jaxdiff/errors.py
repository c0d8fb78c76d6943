"""Errors that a user can mend, worded for the user."""

import math
import types
import typing
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any


class UserError(ValueError):
    """Bad input: one line that names the input, what was expected and what to do.

    The command-line scripts print the line and exit with code 2; library callers catch it as a
    `ValueError`.
    """


def choose(kind: str, name: str, choices: Collection[str]) -> str:
    """Return `name` if it is one of `choices`.

    Args:
      kind: what is being chosen, as the user calls it ("sampler", "preset").
      name: what the user gave.
      choices: the names that exist; a dict serves.

    Raises:
      UserError: `name` is unknown; the message lists the choices and the nearest one.
    """
    if name in choices:
        return name
    near = get_close_matches(str(name), list(choices), n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    listed = ", ".join(sorted(choices))
    raise UserError(f"unknown {kind} {name!r}{hint}; choose one of: {listed}")


def typed_fields(cls: type, values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Values that a JSON file gives for fields of a dataclass, as that dataclass annotates them.

    Lists become tuples and, where a float belongs, whole numbers become floats.

    Args:
      cls: the dataclass.
      values: a value for some of its fields, and for nothing else.
      source: where they come from, for the message.

    Raises:
      UserError: a value is of another type or length, or no finite number.
    """
    hints = typing.get_type_hints(cls)
    fields = {}
    for name, value in values.items():
        try:
            fields[name] = _as_type(value, hints[name])
        except TypeError:
            wanted = getattr(hints[name], "__name__", str(hints[name]))
            raise UserError(f"{source}: {name} should be {wanted}, not {value!r}") from None
    return fields


def _as_type(value: Any, hint: Any) -> Any:
    """The value, converted where JSON has no such type; TypeError if it does not fit."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for choice in inner:
            try:
                return _as_type(value, choice)
            except TypeError:
                pass
        raise TypeError
    if origin is tuple and isinstance(value, list | tuple):
        if inner[-1] is not ... and len(value) != len(inner):
            raise TypeError
        return tuple(_as_type(item, inner[0]) for item in value)
    if origin is dict and isinstance(value, dict):
        return {_as_type(k, inner[0]): _as_type(v, inner[1]) for k, v in value.items()}
    if origin is typing.Literal and value in inner:
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and number and math.isfinite(value):
        return float(value)
    if hint is int and number and math.isfinite(value) and value == int(value):
        return int(value)
    if hint in (str, bool, type(None)) and isinstance(value, hint):
        return value
    raise TypeError
