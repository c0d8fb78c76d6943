"""A mistake on a command line is one line; help is help."""

from dataclasses import dataclass, field

import pytest
import tyro

import train
from jaxdiff.cli import parse_or_explain
from jaxdiff.errors import UserError


@dataclass(frozen=True)
class Inner:
    """Refuses a number."""

    number: int = 1

    def __post_init__(self) -> None:
        if self.number < 0:
            raise UserError("inner.number must be at least 0")


@dataclass(frozen=True)
class Outer:
    """Holds another."""

    inner: Inner = field(default_factory=Inner)
    name: str = "x"


def _parse(*arguments):
    return parse_or_explain(lambda: tyro.cli(Outer, args=arguments))


def test_what_is_right_is_parsed():
    assert _parse("--inner.number", "3") == Outer(Inner(3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--inner.number", "x"], "Error parsing --inner.number: invalid literal"),
        (["--inner.number=-1"], "inner.number must be at least 0"),
        (["--nmae", "y"], "--nmae, y; perhaps you meant --name"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    with pytest.raises(UserError) as caught:
        _parse(*arguments)
    assert message in str(caught.value)
    assert not {"\n", "│", "╭"} & set(str(caught.value))


def test_help_is_printed(capsys):
    with pytest.raises(SystemExit) as caught:
        _parse("--help")
    assert not caught.value.code
    assert "--inner.number" in capsys.readouterr().out


def test_presets_do_not_show_how_they_are_wrapped():
    with pytest.raises(UserError) as caught:
        train.parse(["tiny", "--workdir", "x", "--objective.noise.shift", "0"])
    assert str(caught.value) == (
        "Error parsing objective.noise: noise.shift must be above 0, not 0.0"
    )
