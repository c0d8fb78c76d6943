"""What the command lines share: one clear line for a mistake."""

import contextlib
import io
import re
import sys
from collections.abc import Callable
from typing import TypeVar

from jaxdiff.errors import UserError

T = TypeVar("T")
_INNER = "__tyro-dummy-inner__."  # how tyro calls what it wraps a default in


def exit_code(run: Callable[[], None]) -> int:
    """Run a command line; 0 on success, 2 on bad input, which is said in one line."""
    try:
        run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def or_exit(run: Callable[[], None]) -> None:
    """Run what a script begins with; on bad input say so in one line and leave with 2.

    Raises:
      SystemExit: the input is bad.
    """
    if code := exit_code(run):
        sys.exit(code)


def parse_or_explain(parse: Callable[[], T]) -> T:
    """Call a tyro parser; turn the box that it prints about a mistake into one line.

    Raises:
      UserError: the command line is wrong.
      SystemExit: help was asked for and printed.
    """
    caught = io.StringIO()
    try:
        with contextlib.redirect_stderr(caught):
            return parse()
    except SystemExit as leave:
        if not leave.code:
            raise
        raise UserError(_first_part(caught.getvalue())) from None


def _first_part(box: str) -> str:
    """What a box of tyro's says below its title, and which option it thinks was meant.

    The box is drawn in Unicode, its title in the upper edge, or, where the terminal has none, in
    ASCII, its title above a rule.
    """
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box).strip().replace(_INNER, "")
    lines = [" ".join(re.sub("[│╰╯]", " ", line).split()) for line in plain.splitlines()]
    rules = [i for i, line in enumerate(lines) if line.startswith("╭") or not line.strip("─-")]
    first = lines[rules[0] + 1 : rules[1]] if len(rules) > 1 else lines
    said = " ".join(first)
    if "Perhaps you meant:" in lines:
        said += f"; perhaps you meant {lines[lines.index('Perhaps you meant:') + 1]}"
    return said
