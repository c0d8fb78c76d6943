"""How many samples a measure needs, and the uncertainty of a share."""

import math
from typing import NamedTuple

from jaxdiff.errors import UserError

_Z95 = 1.959964  # the normal distribution's 97.5th percentile


class Spread(NamedTuple):
    """Several measurements of one thing."""

    mean: float
    """Their mean."""
    std: float
    """Their standard deviation (n - 1); nan for a single one."""
    count: int
    """How many there are."""


def spread(values: list[float]) -> Spread:
    """The mean of all measurements, never the best one, and their standard deviation.

    >>> spread([1.0, 3.0])
    Spread(mean=2.0, std=1.4142135623730951, count=2)
    """
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Spread(mean, math.nan, 1)
    return Spread(mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (count - 1)), count)


def require_samples(measure: str, least: int, why: str = "", **counts: int) -> None:
    """Refuse a measure of fewer samples than it needs.

    Args:
      measure: its name, as a user calls it.
      least: how many of each kind it needs.
      why: the reason, or what to do instead.
      **counts: kind ("reference", "samples") -> how many there are.

    Raises:
      UserError: there are too few; the message says how many are needed.
    """
    for kind, count in counts.items():
        if count < least:
            name, reason = kind.replace("_", " "), f" ({why})" if why else ""
            raise UserError(f"{measure} needs at least {least} {name}, not {count}{reason}")


def share_interval(hits: int, count: int) -> tuple[float, float]:
    """The 95% interval of a binomial share (Wilson 1927).

    >>> low, high = share_interval(8, 10)
    >>> round(low, 3), round(high, 3)
    (0.49, 0.943)
    """
    share, z = hits / count, _Z95
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    width = math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    half = z / (1 + z**2 / count) * width
    return max(0.0, centre - half), min(1.0, centre + half)
