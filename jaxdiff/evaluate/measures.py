"""The measures of one set of pictures against a reference, by name.

Axis legend: N pictures, D numbers in a feature.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxdiff.errors import UserError, choose
from jaxdiff.evaluate.counts import require_samples
from jaxdiff.evaluate.frechet import (
    Moments,
    can_extrapolate,
    extrapolated,
    frechet_distance,
    moments,
    require_full_rank,
)
from jaxdiff.evaluate.kernel import SUBSETS, cmmd, kid, subset_size
from jaxdiff.evaluate.manifold import NEIGHBOURS, manifold
from jaxdiff.evaluate.statistics import Statistics


class Score(NamedTuple):
    """One number."""

    name: str
    """What it is."""
    value: float
    """nan where it cannot be had; the note then says why."""
    note: str = ""
    """What to know of it: bias, numbers that went in."""
    std: float = math.nan
    """Standard deviation of the subsets or prompts that it is the mean of; nan: of none."""


class Options(NamedTuple):
    """How to measure."""

    neighbours: int = NEIGHBOURS
    """k of precision, recall, density and coverage."""
    subsets: int = SUBSETS
    """Random subsets of the kernel distance."""
    subset_size: int | None = None
    """Pictures of a subset; None: 1000, or half of the smaller set."""
    few_samples: bool = False
    """Take the Fréchet distance of sets with a singular covariance too."""
    seed: int = 0
    """Of all random subsets."""


Features = Float[np.ndarray, "N D"]
Measure = Callable[[Statistics, Features, Options], list[Score]]


def choose_measures(names: Sequence[str], extractor: str) -> tuple[str, ...]:
    """The measures of these names or, where there is none, all that suit the extractor.

    Raises:
      UserError: a name is unknown, or a measure is of another kind of extractor.
    """
    by_clip = extractor.startswith("clip")
    for name in names:
        choose("measure", name, MEASURES)
    if "cmmd" in names and not by_clip:
        raise UserError(f"cmmd is of CLIP's embeddings; the extractor is {extractor}")
    return tuple(dict.fromkeys(names)) or tuple(
        name for name in MEASURES if name != "cmmd" or by_clip
    )


def require_enough(
    names: Sequence[str],
    reference: int,
    kept: int | None,
    samples: int,
    width: int,
    options: Options,
) -> None:
    """Refuse what would be refused later, before any feature is extracted.

    Args:
      names: of measures.
      reference: how many pictures its moments are of; 0: nobody knows.
      kept: how many pictures of it there are features of; None: it holds none.
      samples: how many pictures a set has.
      width: numbers in a feature.
      options: how to measure.

    Raises:
      UserError: a measure needs more pictures, and the message says how many, or features.
    """
    if kept is None and set(names) - {"frechet"}:
        raise UserError(
            "the reference statistics hold no features, which all measures but frechet want: "
            "write them with --keep-features, or name the pictures"
        )
    if "frechet" in names and not options.few_samples:
        require_full_rank(width, reference, samples)
    least = {"kid": ("the kernel distance", options.subset_size or 4)}
    k = options.neighbours
    least["manifold"] = (f"precision and recall with {k} neighbours", k + 1)
    for name in least.keys() & set(names):
        require_samples(*least[name], reference_pictures=kept, samples=samples)


def measure(
    reference: Statistics, features: Features, names: Sequence[str], options: Options
) -> list[Score]:
    """The scores of some measures.

    Args:
      reference: what to compare with.
      features: of the samples, by the same extractor.
      names: of `MEASURES`.
      options: how.

    Raises:
      UserError: a measure wants more samples, or features that the reference has not kept.
    """
    kept = None if reference.features is None else len(reference.features)
    require_enough(names, reference.moments.count, kept, *features.shape, options)
    return [score for name in names for score in MEASURES[name](reference, features, options)]


def _frechet(reference: Statistics, features: Features, options: Options) -> list[Score]:
    given = moments(features)
    note = f"too large by about c / N at N = {given.count}"
    distance = frechet_distance(reference.moments, given)
    return [Score("Fréchet distance", distance, note), _at_infinity(reference, features, options)]


def _at_infinity(reference: Statistics, features: Features, options: Options) -> Score:
    name, size = "Fréchet distance, N to infinity", features.shape[1]
    # Moments of more pictures than there are features for (OpenAI's files) are the better ones.
    whole = reference.features is not None and len(reference.features) == reference.moments.count
    known = reference.features if whole else reference.moments
    counts = [len(features)] + ([] if isinstance(known, Moments) else [len(known)])
    if not can_extrapolate(min(counts), size):
        return Score(name, math.nan, f"needs {2 * (size + 1)} pictures of both")
    bias = "; the reference's own bias stays" if isinstance(known, Moments) else ""
    return Score(
        name, extrapolated(known, features, options.seed), f"the intercept of a line in 1 / N{bias}"
    )


def _kid(reference: Statistics, features: Features, options: Options) -> list[Score]:
    known = reference.features
    size = options.subset_size or subset_size(len(known), len(features))
    found = kid(known, features, subsets=options.subsets, size=size, seed=options.seed)
    note = f"unbiased; {found.count} subsets of {size}"
    return [Score("KID x 1000", 1000 * found.mean, note, 1000 * found.std)]


def _cmmd(reference: Statistics, features: Features, options: Options) -> list[Score]:
    found = cmmd(reference.features, features)
    return [
        Score("CMMD", found.published, "as published: too large for few samples"),
        Score("CMMD, unbiased", found.unbiased, "may be below 0"),
    ]


def _manifold(reference: Statistics, features: Features, options: Options) -> list[Score]:
    found = manifold(reference.features, features, options.neighbours)
    note = f"{options.neighbours} neighbours; compare at equal counts"
    return [Score(name, value, note) for name, value in found._asdict().items()]


MEASURES: dict[str, Measure] = {
    "frechet": _frechet,
    "kid": _kid,
    "cmmd": _cmmd,
    "manifold": _manifold,
}
