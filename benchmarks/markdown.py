"""Tables as they are measured: a head, then a row whenever it is known."""


def head(*names: str) -> str:
    """The first two lines of a Markdown table.

    >>> print(head("side", "seconds"))
    | side | seconds |
    |---|---|
    """
    return row(*names) + "\n" + "|---" * len(names) + "|"


def row(*cells: str) -> str:
    """One line of it.

    >>> row("eager", "1.5")
    '| eager | 1.5 |'
    """
    return "| " + " | ".join(cells) + " |"
