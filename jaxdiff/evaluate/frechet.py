r"""The Fréchet distance between two sets of features, each taken for a Gaussian.

    d^2 = |m_1 - m_2|^2 + tr S_1 + tr S_2 - 2 tr (S_1 S_2)^(1/2)                                 (1)
    tr (S_1 S_2)^(1/2) = sum of sqrt of the eigenvalues of S_1^(1/2) S_2 S_1^(1/2)               (2)

(1) is Heusel et al. 2017 (FID), eq. 6, after Dowson & Landau 1982. (2): S_1 S_2 is similar to the
symmetric product, whose eigenvalues are real and found stably, unlike a general matrix root.

At N samples the distance is too large by about c / N (Chong & Forsyth 2020), so that a smaller set
looks worse than it is. `extrapolated` fits that line and reads it off at 1 / N = 0.

Axis legend: N samples, D numbers in each.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxdiff.evaluate.counts import require_samples

SIZES = 8  # points of the line
_SMALLEST = 5  # the smallest subset is this part of all


class Moments(NamedTuple):
    """What the Fréchet distance knows of a set of features."""

    mean: Float[np.ndarray, " D"]
    """Mean, float64."""
    covariance: Float[np.ndarray, "D D"]
    """Covariance with N - 1 below, float64."""
    count: int
    """N; 0 where statistics of other tools do not say it."""


def moments(features: Float[np.ndarray, "N D"]) -> Moments:
    """Mean and covariance of features, in float64.

    Raises:
      UserError: there are fewer than two.
    """
    require_samples("a covariance", 2, samples=len(features))
    wide = features.astype(np.float64)
    mean = wide.mean(axis=0)
    centred = wide - mean
    return Moments(mean, centred.T @ centred / (len(wide) - 1), len(wide))


def frechet_distance(a: Moments, b: Moments) -> float:
    """Eq. (1): 0 where mean and covariance agree; in the squared units of the features."""
    return frechet_from(a)(b)


def frechet_from(a: Moments) -> Callable[[Moments], float]:
    """The distance from one Gaussian, whose matrix root is taken once, to others."""
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T

    def distance(b: Moments) -> float:
        product = root @ b.covariance @ root
        shared = np.linalg.eigvalsh((product + product.T) / 2)
        apart = a.mean - b.mean
        traces = np.trace(a.covariance) + np.trace(b.covariance)
        return float(apart @ apart + traces - 2 * np.sqrt(np.maximum(shared, 0.0)).sum())

    return distance


def require_full_rank(a: Moments, b: Moments) -> None:
    """Refuse sets with a singular covariance, where the distance says little but their sizes.

    Raises:
      UserError: a set has no more samples than a feature has numbers.
    """
    size = len(a.mean)
    counts = {"reference_pictures": a.count, "samples": b.count}
    counts = {kind: count for kind, count in counts.items() if count}
    why = (
        f"a covariance of {size} features is singular below; the kernel distance has no such "
        "bound, and --few-samples computes this one all the same"
    )
    require_samples("the Fréchet distance", size + 1, why, **counts)


def can_extrapolate(count: int, size: int) -> bool:
    """Whether a set of `count` features of `size` numbers has subsets that show the line."""
    return count >= 2 * (size + 1)


def extrapolated(
    reference: Float[np.ndarray, "N D"] | Moments, features: Float[np.ndarray, "M D"], seed: int = 0
) -> float:
    """The distance at infinitely many samples: the intercept of d^2 over 1 / share.

    Random subsets hold shares of the features between a fifth and all of them, and, where the
    reference is given as features, of the reference too, whose own bias then goes as well (Chong &
    Forsyth 2020, section 4, with the line in 1 / N for both sets). May be a little below 0.

    Args:
      reference: features, or moments, whose bias stays.
      features: of the samples.
      seed: of the subsets.

    Raises:
      UserError: a set has fewer than twice the samples that make a covariance regular.
    """
    rng, sets = np.random.default_rng(seed), [features]
    if not isinstance(reference, Moments):
        sets.append(reference)
    count, size = min(map(len, sets)), features.shape[1]
    require_samples("the extrapolated Fréchet distance", 2 * (size + 1), samples=count)
    shares = np.linspace(max(1 / _SMALLEST, (size + 1) / count), 1.0, SIZES)
    distances = []
    for share in shares:
        parts = [_part(each, share, rng) for each in sets]
        other = reference if isinstance(reference, Moments) else moments(parts[1])
        distances.append(frechet_distance(other, moments(parts[0])))
    return float(np.polynomial.polynomial.polyfit(1 / shares, distances, 1)[0])


def _part(
    features: Float[np.ndarray, "N D"], share: float, rng: np.random.Generator
) -> Float[np.ndarray, "n D"]:
    """A random share of the features."""
    count = round(share * len(features))
    return features[rng.choice(len(features), count, replace=False)]
