r"""The Fréchet distance between two sets of features, each taken for a Gaussian.

    d^2 = |m_1 - m_2|^2 + tr S_1 + tr S_2 - 2 tr (S_1 S_2)^(1/2)                                 (1)
    tr (S_1 S_2)^(1/2) = sum of sqrt of the eigenvalues of S_1^(1/2) S_2 S_1^(1/2)               (2)

(1) is Heusel et al. 2017 (FID), eq. 6, after Dowson & Landau 1982. (2): S_1 S_2 is similar to the
symmetric product, whose eigenvalues are real and found stably, unlike a general matrix root.

At N samples the distance is too large by about c / N (Chong & Forsyth 2020), so that a smaller set
looks worse than it is. `extrapolated` fits that line and reads it off at 1 / N = 0.

Axis legend: N samples, D numbers in each.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxdiff.evaluate.counts import require_samples

PARTS = 5  # the line goes through averages over 1, 2, ... as many parts of the sets


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
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    product = root @ b.covariance @ root
    shared = np.linalg.eigvalsh((product + product.T) / 2)
    apart, traces = a.mean - b.mean, np.trace(a.covariance) + np.trace(b.covariance)
    return float(apart @ apart + traces - 2 * np.sqrt(np.maximum(shared, 0.0)).sum())


def require_full_rank(size: int, reference: int, samples: int) -> None:
    """Refuse sets with a singular covariance, where the distance says little but their sizes.

    Args:
      size: numbers in a feature.
      reference: how many features there are; 0: nobody knows.
      samples: how many features there are.

    Raises:
      UserError: a set has no more samples than a feature has numbers.
    """
    counts = {"reference_pictures": reference, "samples": samples}
    counts = {kind: count for kind, count in counts.items() if count}
    why = (
        f"a covariance of {size} features is singular below; the kernel distance has no such "
        "bound, and --few-samples computes this one all the same"
    )
    require_samples("the Fréchet distance", size + 1, why, **counts)


def can_extrapolate(count: int, size: int) -> bool:
    """Whether halves of a set of `count` features of `size` numbers have regular covariances."""
    return count >= 2 * (size + 1)


def extrapolated(
    reference: Float[np.ndarray, "N D"] | Moments, features: Float[np.ndarray, "M D"], seed: int = 0
) -> float:
    """The distance at infinitely many samples: a of the line a + b k through d_k^2.

    d_k^2 is the mean over k random parts of the features, and, where the reference is given as
    features, of the same number of parts of it, whose own bias then goes as well: each set is k
    times smaller, and its bias c / N k times larger (Chong & Forsyth 2020, section 4, with disjoint
    parts for random subsets). May be a little below 0.

    Args:
      reference: features, or moments, whose bias stays.
      features: of the samples.
      seed: of the parts.

    Raises:
      UserError: a set has fewer than twice the samples that make a covariance regular.
    """
    rng, sets = np.random.default_rng(seed), [features]
    if not isinstance(reference, Moments):
        sets.append(reference)
    count, size = min(map(len, sets)), features.shape[1]
    require_samples("the extrapolated Fréchet distance", 2 * (size + 1), samples=count)
    shuffled = [rng.permutation(each) for each in sets]
    numbers = np.arange(1, min(PARTS, count // (size + 1)) + 1)
    distances = []
    for number in numbers:
        parts = zip(*(np.array_split(each, number) for each in shuffled), strict=True)
        distances.append(np.mean([_distance(reference, part) for part in parts]))
    return float(np.polynomial.polynomial.polyfit(numbers, distances, 1)[0])


def _distance(
    reference: Float[np.ndarray, "N D"] | Moments, part: tuple[Float[np.ndarray, "n D"], ...]
) -> float:
    """Of a part of the features from that of the reference, or from all of it."""
    other = reference if isinstance(reference, Moments) else moments(part[1])
    return frechet_distance(other, moments(part[0]))
