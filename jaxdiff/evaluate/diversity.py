r"""How different the pictures of one prompt are.

    distance   mean of 1 - cos(x_i, x_j) over pairs of different pictures of a prompt
    Vendi      exp of the entropy of the eigenvalues of K / n, K_ij = cos(x_i, x_j): an effective
               number of different pictures among n (Friedman & Dieng 2023, definition 3.1)

The distance has no bias in n; the Vendi score grows with n: compare at equal numbers.

Axis legend: N pictures, D numbers in a feature.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxdiff.evaluate.counts import Spread, require_samples, spread
from jaxdiff.evaluate.distances import unit


class Diversity(NamedTuple):
    """Over the prompts that have several pictures."""

    distance: Spread
    """Mean cosine distance within a prompt; 0: all alike."""
    vendi: Spread
    """Effective number of different pictures of a prompt."""
    pictures: float
    """Pictures of a prompt, on average."""


def diversity(features: Float[np.ndarray, "N D"], prompts: Int[np.ndarray, " N"]) -> Diversity:
    """Diversity per prompt, over the prompts.

    Args:
      features: of the pictures.
      prompts: the number of the prompt of each.

    Raises:
      UserError: no prompt has two pictures.
    """
    numbers, counts = np.unique(prompts, return_counts=True)
    most = int(counts.max(initial=0))
    require_samples("diversity", 2, "draw each with several seeds", pictures_of_a_prompt=most)
    features = unit(features)
    distances, vendi = [], []
    for number in numbers[counts > 1]:
        own = features[prompts == number]
        n, total = len(own), own.sum(axis=0)
        alike = total @ total - (own * own).sum()  # over pairs of different pictures
        distances.append(float(1 - alike / (n * (n - 1))))
        # x x^T and x^T x share their eigenvalues but for zeros: the smaller matrix.
        values = np.linalg.eigvalsh((own @ own.T if n < own.shape[1] else own.T @ own) / n)
        values = values[values > 1e-12]
        vendi.append(float(np.exp(-(values * np.log(values)).sum())))
    return Diversity(spread(distances), spread(vendi), float(counts[counts > 1].mean()))
