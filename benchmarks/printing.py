"""The tables of what is measured in processes of their own: combinations, and stages."""

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from benchmarks import markdown, measuring, processes
from jaxdiff.errors import UserError

Cells = list[str]


class Table(NamedTuple):
    """How a measurement is asked for and printed."""

    target: str
    """MODULE:FUNCTION that takes `what` and more, and says numbers by name and `place`."""
    keys: tuple[str, ...]
    """What of `what` is printed: the first columns."""
    names: tuple[str, ...]
    """The other columns."""
    cells: Callable[[dict[str, Any], dict[str, Any]], Cells]
    """(what, the numbers) -> the other columns' cells."""


def print_table(table: Table, combinations: Iterable[dict[str, Any]], **given: Any) -> str:
    """Print a row for each combination as it is measured; where it fails, why.

    Args:
      table: how.
      combinations: `what` of each row.
      **given: the target's other arguments.

    Returns:
      The devices that it was measured on.
    """
    print(markdown.head(*table.keys, *table.names), flush=True)
    places: dict[str, None] = {}
    for what in combinations:
        with processes.empty_cache() as cache:
            try:
                found = processes.call(table.target, {"what": what, **given}, **cache)
            except processes.ProcessFailed as error:
                cells = [str(error)] + [""] * (len(table.names) - 1)
            else:
                cells, _ = table.cells(what, found), places.setdefault(found["place"])
        print(markdown.row(*(str(what[key]) for key in table.keys), *cells), flush=True)
    return ", ".join(places) or "no device"


def print_breakdown(target: str, command: str, **given: Any) -> None:
    """Print the stages of a command, with an empty compile cache and a filled one, and their sums.

    Args:
      target: MODULE:FUNCTION, which takes `began` too; says `seconds` by stage, and `place`.
      command: what is taken apart.
      **given: the target's other arguments.

    Raises:
      UserError: it failed.
    """
    found = []
    with processes.empty_cache() as cache:
        for _ in ("cold", "cached"):
            try:
                found.append(processes.call(target, {**given, "began": time.time()}, **cache))
            except processes.ProcessFailed as error:
                raise UserError(f"{command}: {error}") from error
    cold, cached = (each["seconds"] for each in found)
    print(markdown.head(command, "cold s", "cached s"))
    for stage in cold:
        print(markdown.row(stage, f"{cold[stage]:.2f}", f"{cached[stage]:.2f}"))
    sums = (f"{sum(seconds.values()):.2f}" for seconds in (cold, cached))
    print(markdown.row("together", *sums))
    print(measuring.conditions(found[0]["place"]))
