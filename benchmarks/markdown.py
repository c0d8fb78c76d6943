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


def spread(values: Sequence[float], mean: str = "{x:.4g}", deviation: str = "{x:.2g}") -> str:
    """A cell: the mean of several measurements and, of more than one, their standard deviation.

    >>> spread([1.0, 3.0]), spread([0.5]), spread([1.0, 3.0], "{x:.1f}%", "{x:.1f}%")
    ('2 ± 1.4', '0.5', '2.0% ± 1.4%')
    """
    about = " ± " + deviation.format(x=statistics.stdev(values)) if len(values) > 1 else ""
    return mean.format(x=statistics.mean(values)) + about


def row(*cells: str) -> str:
    """One line of it.

    >>> row("eager", "1.5")
    '| eager | 1.5 |'
    """
    return "| " + " | ".join(cells) + " |"
