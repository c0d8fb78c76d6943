"""What the command lines share: one clear line for a mistake."""

import contextlib
import io
import re
from collections.abc import Callable
from typing import TypeVar

from jaxdiff.errors import UserError

T = TypeVar("T")


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
        plain = re.sub(r"\x1b\[[0-9;]*m|[│─╭╮╰╯┌┐└┘|]", " ", caught.getvalue())
        lines = [" ".join(line.split()) for line in plain.splitlines()]
        raise UserError("; ".join(line for line in lines if line)) from None
