r"""Are generated pictures copies of training pictures? Measured against pictures that cannot be.

A held-out real picture has a nearest training picture too, and in a corpus of alike pictures (white
ground, one artist) it is near. So a fixed threshold finds copies where there are none. Here the
distances d of n held-out pictures to their nearest training pictures calibrate the test:

    p = (1 + number of held-out distances <= d) / (n + 1)                                        (1)

is a p-value of "this picture is no nearer to the training set than an unseen real one": below a
level a with probability at most a (conformal: Vovk et al. 2005). Of m pictures, the number f with
p <= a is, if they are like the held-out ones, beta-binomial, since all share one calibration:

    f ~ BetaBinomial(m, c, n + 1 - c),    c = floor(a (n + 1))                                   (2)

and its upper tail is the p-value of the whole set. Somepalli et al. 2023 compare the same
distances; Carlini et al. 2023 count copies by a threshold. A distance is between features that are
centred at the training set's mean and scaled to unit length: sqrt(2 - 2 cos), 0 to 2; a distance
that the extractor's rounding explains is 0.

Axis legend: N generated pictures, M training, H held out, D numbers in a feature, K neighbours.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdiff.errors import UserError
from jaxdiff.evaluate.counts import require_samples, share_interval
from jaxdiff.evaluate.distances import nearest, unit

LEVEL = 0.01
SHOWN = 3  # neighbours of a picture that are kept
# Two passes over one picture, in a full batch and in a padded one, sum in other orders: in float32
# they differ by up to 7e-6 of the feature's length, 60 times its unit (measured on a CPU: sums of
# 12,288 products of one sign; a vision transformer of 12 layers by 2e-6, InceptionV3 by 1e-7). Four
# times as much; one number of a picture of 64 x 64 that differs by one of 255 levels is 7e-5.
_ROUNDING = 3e-5


class Audit(NamedTuple):
    """What the copies test found."""

    places: Int[np.ndarray, "N K"]
    """The nearest training pictures, nearest first."""
    distances: Float[np.ndarray, "N K"]
    """How far they are."""
    p_values: Float[np.ndarray, " N"]
    """Eq. (1)."""
    flags: Bool[np.ndarray, " N"]
    """Whose p is at most the level."""
    chosen: int
    """c of eq. (2): fewer than so many held-out pictures are as near as a flagged one."""
    copies: int
    """Held-out pictures that are in the training set themselves."""
    interval: tuple[float, float]
    """95% interval of their share."""
    p_value: float
    """Of the whole set: how likely so many would be flagged if none were a copy, eq. (2)."""
    threshold: float
    """The distance below which a picture is flagged."""
    medians: tuple[float, float]
    """Median distance of generated and of held-out pictures."""

    @property
    def flagged(self) -> int:
        """f of eq. (2)."""
        return int(self.flags.sum())


def audit(
    generated: Float[np.ndarray, "N D"],
    training: Float[np.ndarray, "M D"],
    held_out: Float[np.ndarray, "H D"],
    level: float = LEVEL,
) -> Audit:
    """Nearest training pictures, and which of the generated ones are nearer than real ones are.

    Args:
      generated: features of the pictures to test.
      training: features of all that the model was trained on.
      held_out: features of real pictures of the same kind that it was not.
      level: share of real pictures that would be flagged.

    Raises:
      UserError: there are too few held-out pictures for the level, no picture at all, or the level
        is no share.
    """
    require_calibration(len(generated), len(training), len(held_out), level)
    centre = training.mean(axis=0, dtype=np.float64)
    alike = _rounding(generated, centre), _rounding(held_out, centre)
    generated, training, held_out = (unit(x - centre) for x in (generated, training, held_out))
    places, distances = nearest(generated, training, SHOWN, alike[0])
    real = np.sort(nearest(held_out, training, 1, alike[1])[1][:, 0])
    as_near = np.searchsorted(real, distances[:, 0], side="right")
    chosen = math.floor(level * (len(real) + 1) + 1e-9)
    flags = as_near < chosen  # p <= chosen / (n + 1), in whole numbers
    flagged = int(flags.sum())
    return Audit(
        places,
        distances,
        (1 + as_near) / (len(real) + 1),
        flags,
        chosen,
        int((real == 0).sum()),
        share_interval(flagged, len(generated)),
        beta_binomial_tail(flagged, len(generated), chosen, len(real) + 1 - chosen),
        float(real[chosen - 1]),
        (float(np.median(distances[:, 0])), float(np.median(real))),
    )


def _rounding(
    features: Float[np.ndarray, "N D"], centre: Float[np.ndarray, " D"]
) -> Float[np.ndarray, " N"]:
    """How far a picture may be from itself: rounding is of the feature, scaled as x - centre is."""
    lengths = np.linalg.norm(features.astype(np.float64) - centre, axis=1)
    whole = np.linalg.norm(features.astype(np.float64), axis=1)
    return _ROUNDING * whole / np.where(lengths > 0, lengths, np.inf)


def require_calibration(generated: int, training: int, held_out: int, level: float) -> None:
    """Refuse numbers of pictures that make no test at a level.

    Raises:
      UserError: a number is too small, or the level is no share.
    """
    if not 0 < level < 1:
        raise UserError(f"the level of a test must be between 0 and 1, not {level:g}")
    least = math.ceil(1 / level - 1e-9) - 1
    require_samples(f"a test for copies at level {level:g}", least, held_out_pictures=held_out)
    require_samples("a test for copies", SHOWN, training_pictures=training)
    require_samples("a test for copies", 1, pictures=generated)


def beta_binomial_tail(least: int, trials: int, a: int, b: int) -> float:
    """P(X >= least) for X ~ BetaBinomial(trials, a, b).

    P(X = x) = C(trials, x) B(x + a, trials - x + b) / B(a, b).

    >>> round(beta_binomial_tail(1, 1, 1, 99), 6)
    0.01
    """

    def log_probability(x: int) -> float:
        ways = math.lgamma(trials + 1) - math.lgamma(x + 1) - math.lgamma(trials - x + 1)
        return ways + _log_beta(x + a, trials - x + b) - _log_beta(a, b)

    return min(1.0, math.fsum(math.exp(log_probability(x)) for x in range(least, trials + 1)))


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
