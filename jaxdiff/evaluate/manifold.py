r"""Precision, recall, density and coverage: how two sets of features lie among each other.

Around each feature lies a ball that reaches to its k-th nearest neighbour in its own set.

    precision  share of samples inside a ball of the reference
    recall     share of the reference inside a ball of the samples
    density    balls of the reference that a sample lies in, over k, on average (may exceed 1)
    coverage   share of the reference whose ball holds a sample

Kynkäänniemi et al. 2019, eq. 1 and 2; Naeem et al. 2020, eq. 5 and 7. Balls are open, as in the
latter's code. All four depend on the number of samples (larger sets have smaller balls): compare
only at equal numbers; one outlier in the reference makes precision too high, in the samples recall.

Axis legend: N M samples, D numbers in each.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxdiff.evaluate.counts import require_samples
from jaxdiff.evaluate.distances import row_blocks, square_distances

NEIGHBOURS = 5


class Manifold(NamedTuple):
    """The four shares."""

    precision: float
    """How many samples look real."""
    recall: float
    """How much of the reference the samples reach."""
    density: float
    """Precision that one outlier does not spoil."""
    coverage: float
    """Recall that one outlier does not spoil."""


def manifold(
    reference: Float[np.ndarray, "N D"],
    samples: Float[np.ndarray, "M D"],
    k: int = NEIGHBOURS,
) -> Manifold:
    """Precision, recall, density and coverage with balls to the k-th neighbour.

    Raises:
      UserError: a set has no more than k features, so that there is no k-th neighbour.
    """
    counts = {"reference_pictures": len(reference), "samples": len(samples)}
    require_samples(f"precision and recall with {k} neighbours", k + 1, **counts)
    own, others = _square_radii(reference, k), _square_radii(samples, k)
    samples = samples.astype(np.float64)
    balls_around = np.zeros(len(samples), np.int64)  # of the reference, around each sample
    recalled = covered = 0
    for rows in row_blocks(len(reference)):
        squares = square_distances(reference[rows], samples)
        balls_around += (squares < own[rows, None]).sum(axis=0)
        recalled += int((squares < others).any(axis=1).sum())
        covered += int((squares.min(axis=1) < own[rows]).sum())
    return Manifold(
        precision=float((balls_around > 0).mean()),
        recall=recalled / len(reference),
        density=float(balls_around.mean() / k),
        coverage=covered / len(reference),
    )


def _square_radii(features: Float[np.ndarray, "N D"], k: int) -> Float[np.ndarray, " N"]:
    """The squared distance of each feature to its k-th nearest neighbour."""
    features = features.astype(np.float64)
    radii = np.empty(len(features))
    for rows in row_blocks(len(features)):
        squares = square_distances(features[rows], features)
        squares[np.arange(len(squares)), np.arange(rows.start, rows.stop)] = np.inf  # itself
        radii[rows] = np.partition(squares, k - 1, axis=1)[:, k - 1]
    return radii
