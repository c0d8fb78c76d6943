"""Errors that a user can mend, worded for the user."""

from collections.abc import Collection
from difflib import get_close_matches


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
