"""Tables as they are measured: a head, then a row whenever it is known."""

import statistics
from collections.abc import Sequence


def head(*names: str) -> str:
    """The first two lines of a Markdown table.

    >>> print(head("side", "seconds"))
    | side | seconds |
    |---|---|
    """
    return row(*names) + "\n" + "|---" * len(names) + "|"


def spread(values: Sequence[float]) -> str:
    """A cell: the mean of several measurements and, of more than one, their standard deviation.

    >>> spread([1.0, 3.0]), spread([0.5])
    ('2 ± 1.4', '0.5')
    """
    deviation = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4g}{deviation}"


def row(*cells: str) -> str:
    """One line of it.

    >>> row("eager", "1.5")
    '| eager | 1.5 |'
    """
    return "| " + " | ".join(cells) + " |"
