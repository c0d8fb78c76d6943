"""Errors for users: unknown names, and values of files that have another type."""

from dataclasses import dataclass
from typing import Literal

import pytest

from jaxdiff.errors import UserError, choose, typed_fields


def test_choose_lists_the_choices_and_the_nearest():
    assert choose("sampler", "ddim", {"ddim": 1}) == "ddim"
    with pytest.raises(UserError) as caught:
        choose("sampler", "eular", ["heun", "euler"])
    said = str(caught.value)
    assert said == "unknown sampler 'eular' (did you mean 'euler'?); choose one of: euler, heun"


@dataclass
class Row:
    """A field of each kind."""

    whole: int = 0
    real: float = 0.0
    word: str = ""
    flag: bool = False
    many: tuple[int, ...] = ()
    pair: tuple[float, float] = (0.0, 0.0)
    either: int | tuple[int, ...] | None = None
    kind: Literal["a", "b"] = "a"
    table: dict[str, str] | None = None


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("whole", 3, 3),
        ("whole", 3.0, 3),
        ("real", 3, 3.0),
        ("many", [1, 2], (1, 2)),
        ("pair", [1, 2.5], (1.0, 2.5)),
        ("either", [1], (1,)),
        ("either", None, None),
        ("kind", "b", "b"),
        ("table", {"a": "b"}, {"a": "b"}),
        ("flag", True, True),
    ],
)
def test_values_that_fit(name, given, expected):
    value = typed_fields(Row, {name: given}, "file")[name]
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("whole", "3"),
        ("whole", 3.5),
        ("whole", True),
        ("real", float("nan")),
        ("real", "x"),
        ("word", 3),
        ("pair", [1]),
        ("pair", [1, 2, 3]),
        ("flag", 1),
        ("many", 3),
        ("many", ["a"]),
        ("either", "a"),
        ("kind", "c"),
        ("table", {"a": 1}),
    ],
)
def test_values_that_do_not(name, given):
    with pytest.raises(UserError, match=f"^file: {name} should be "):
        typed_fields(Row, {name: given}, "file")
