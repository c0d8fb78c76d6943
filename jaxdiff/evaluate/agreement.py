r"""Do pictures show what was asked for? By a network that embeds pictures and texts alike (CLIP).

    score         100 max(cos(picture, its own caption), 0), on average (Hessel et al. 2021, eq. 1,
                  with 100 for their 2.5)
    retrieval@k   share of pictures whose own caption is among the k nearest of all captions

The score of one network says nothing beside another's; the real pictures' own score and retrieval
are the ceiling, and k over the number of captions is what chance retrieves. Both flatter a
generator that was trained on, or guided by, the network that judges.

Axis legend: N pictures, C captions, D numbers in an embedding.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxdiff.errors import UserError
from jaxdiff.evaluate.counts import require_samples
from jaxdiff.evaluate.distances import row_blocks, unit

AT = (1, 5, 10)


class Agreement(NamedTuple):
    """How well pictures fit their captions."""

    score: float
    """Mean cosine with the own caption, times 100."""
    retrieval: dict[int, float]
    """k -> share of pictures that retrieve their own caption."""
    captions: int
    """C, how many captions there were to choose from."""


def agreement(
    pictures: Float[np.ndarray, "N D"],
    captions: Float[np.ndarray, "C D"],
    own: Int[np.ndarray, " N"],
    at: Sequence[int] = AT,
) -> Agreement:
    """Score and retrieval of pictures among different captions.

    A caption that is as near as the own one counts as nearer: a network that tells nothing apart
    retrieves nothing.

    Args:
      pictures: embeddings.
      captions: embeddings of the different captions.
      own: which caption each picture was drawn for.
      at: the ks; those of no fewer than C captions are left out.

    Raises:
      UserError: there are fewer than two captions, or a k is below 1.
    """
    if min(at, default=1) < 1:
        raise UserError(f"retrieval is at 1 or more, not at {min(at)}")
    require_samples("retrieval", 2, different_captions=len(captions))
    pictures, captions = unit(pictures), unit(captions)
    scores, before = np.empty(len(pictures)), np.empty(len(pictures), np.int64)
    for rows in row_blocks(len(pictures)):
        cosines = pictures[rows] @ captions.T
        scores[rows] = cosines[np.arange(len(cosines)), own[rows]]
        before[rows] = (cosines >= scores[rows, None]).sum(axis=1) - 1  # without the own one
    found = {k: float((before < k).mean()) for k in at if k < len(captions)}
    return Agreement(float(100 * np.maximum(scores, 0).mean()), found, len(captions))


def number_captions(captions: Sequence[str]) -> tuple[list[str], Int[np.ndarray, " N"]]:
    """The different captions in their order, and which of them each picture has.

    >>> number_captions(["cat", "dog", "cat"])
    (['cat', 'dog'], array([0, 1, 0]))
    """
    places = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
    return list(places), np.array([places[caption] for caption in captions])
