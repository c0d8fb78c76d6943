r"""Kernel distances between two sets of features: squared maximum mean discrepancies.

    MMD^2 = mean k(x, x') + mean k(y, y') - 2 mean k(x, y)                                       (1)

Gretton et al. 2012. Unbiased (its eq. 3) where x is never paired with itself: the expectation is
the true distance at any number of samples, and a distance of 0 is estimated by numbers about 0,
some of them negative. Biased (its eq. 5) with all pairs: too large by (1 - mean k) (1/N + 1/M).

* KID (Binkowski et al. 2018): k(x, y) = (x y / D + 1)^3, unbiased, over random subsets.
* CMMD (Jayasumana et al. 2024): k(x, y) = exp(-|x - y|^2 / 2 s^2), s = 10, of unit CLIP embeddings,
  times 1000, biased as published; unbiased too.

Axis legend: N M samples, D numbers in each.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxdiff.evaluate.counts import Spread, require_samples, spread
from jaxdiff.evaluate.distances import row_blocks, square_distances, unit

SUBSETS, SUBSET_SIZE = 100, 1000
BANDWIDTH, SCALE = 10.0, 1000.0


class Cmmd(NamedTuple):
    """CMMD by two estimators."""

    published: float
    """Over all pairs, as in the paper: never negative, too large for few samples."""
    unbiased: float
    """Without pairs of a sample with itself."""


def subset_size(reference: int, samples: int) -> int:
    """How many to draw from each set: 1000, or half of the smaller set if that is less."""
    return min(SUBSET_SIZE, min(reference, samples) // 2)


def kid(
    reference: Float[np.ndarray, "N D"],
    samples: Float[np.ndarray, "M D"],
    *,
    subsets: int = SUBSETS,
    size: int = SUBSET_SIZE,
    seed: int = 0,
) -> Spread:
    """The kernel inception distance: mean and standard deviation over random subsets.

    Args:
      reference: features.
      samples: features.
      subsets: how many times to draw.
      size: how many to draw from each set, without replacement.
      seed: of the draws.

    Raises:
      UserError: a set is smaller than `size`, or `size` below 2.
    """
    require_samples("a subset of the kernel distance", 2, features=size)
    require_samples(
        "the kernel distance", size, reference_pictures=len(reference), samples=len(samples)
    )
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(subsets):
        x = reference[rng.choice(len(reference), size, replace=False)]
        y = samples[rng.choice(len(samples), size, replace=False)]
        values.append(_unbiased_cubic(x.astype(np.float64), y.astype(np.float64)))
    return spread(values)


def cmmd(reference: Float[np.ndarray, "N D"], samples: Float[np.ndarray, "M D"]) -> Cmmd:
    """The CLIP maximum mean discrepancy, times 1000, of features scaled to unit length.

    Raises:
      UserError: a set has fewer than two features.
    """
    n, m = len(reference), len(samples)
    require_samples("CMMD", 2, reference_pictures=n, samples=m)
    x, y = unit(reference), unit(samples)
    xx, yy, xy = _gaussian_sum(x, x), _gaussian_sum(y, y), _gaussian_sum(x, y)
    across = 2 * xy / (n * m)
    published = xx / n**2 + yy / m**2 - across
    unbiased = (xx - n) / (n * (n - 1)) + (yy - m) / (m * (m - 1)) - across  # k(x, x) = 1
    return Cmmd(SCALE * published, SCALE * unbiased)


def _unbiased_cubic(x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "M D"]) -> float:
    """Eq. (1) with KID's kernel, without pairs of a sample with itself."""
    n, m = len(x), len(y)
    xx, yy = (_cubic_sum(z, z) - (((z * z).mean(axis=1) + 1.0) ** 3).sum() for z in (x, y))
    return float(xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * _cubic_sum(x, y) / (n * m))


def _cubic_sum(x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "M D"]) -> float:
    """The sum of (x_i y_j / D + 1)^3 over all pairs."""
    return float(sum(_cubic(x[rows], y).sum() for rows in row_blocks(len(x))))


def _cubic(x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "M D"]) -> Float[np.ndarray, "N M"]:
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def _gaussian_sum(x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "M D"]) -> float:
    """The sum of exp(-|x_i - y_j|^2 / 2 s^2) over all pairs."""
    blocks = (square_distances(x[rows], y) for rows in row_blocks(len(x)))
    return float(sum(np.exp(squares / (-2 * BANDWIDTH**2)).sum() for squares in blocks))
