"""What a model draws of the emoji's pairs, scored by an extractor that reads texts.

Axis legend: N pictures, D numbers in a feature.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxdiff.errors import UserError
from jaxdiff.evaluate.agreement import AT, agreement
from jaxdiff.evaluate.extractors import open_extractor
from jaxdiff.evaluate.features import Extractor
from jaxdiff.evaluate.measures import Options, measure
from jaxdiff.evaluate.samples import Samples, open_samples
from jaxdiff.evaluate.statistics import Statistics, statistics_of
from jaxdiff.pipelines import TextToImage

CORPUS = "emoji/permissive"
SPLITS = {"held out": "heldout", "seen": "train"}


def open_model(where: str) -> TextToImage:
    """The pipeline of MODEL, or of MODEL+LORA, such as a student and its teacher."""
    model, *loras = where.split("+")
    pipe = TextToImage.load(model)
    pipe.set_loras([(lora, 1.0) for lora in loras])
    return pipe


class Pairs(NamedTuple):
    """Some pairs of a split: their real pictures as the extractor sees them, and their captions."""

    reference: Statistics
    captions: list[str]


def some_pairs(real: Samples, count: int, extractor: Extractor) -> Pairs:
    """Random `count` pictures of a set, always the same ones, in the set's order."""
    at = sorted(np.random.default_rng(0).permutation(real.count)[:count].tolist())
    pictures, captions = real.take(at), real.captions()
    features = extractor([np.stack([pictures[i] for i in at])])
    statistics = statistics_of(features, extractor.name, real.size)
    return Pairs(statistics, [captions[i] for i in at])


def numbers(
    reference: Statistics,
    features: Float[np.ndarray, "N D"],
    extractor: Extractor,
    captions: list[str] | None,
    measures: Sequence[str] = ("frechet", "kid"),
) -> dict[str, float]:
    """The scores of one set of pictures, by name; those that cannot be had are left out."""
    scores = measure(reference, features, measures, Options(few_samples=True))
    found = {score.name: score.value for score in scores}
    if extractor.texts is not None and captions is not None:
        texts = extractor.texts(captions)
        fit = agreement(features, texts.embeddings, texts.own)
        found |= {"contrastive score": fit.score}
        found |= {f"retrieval at {k}": fit.retrieval.get(k, float("nan")) for k in AT}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def draw(
    pipe: TextToImage, captions: list[str], number: int, extractor: Extractor, **settings: Any
) -> Float[np.ndarray, "N D"]:
    """Features of set `number` of N pictures, whose picture i has the seed `number` N + i."""
    seeds = range(number * len(captions), (number + 1) * len(captions))
    return extractor([pipe(captions, seeds, **settings)])


class Judge:
    """Draws pairs with a model and scores them.

    Args:
      extractor: what looks at the pictures; reads texts.
      count: pairs of each split, the same for every model.

    Raises:
      UserError: the extractor reads no texts, or there are not so many pairs.
    """

    def __init__(self, extractor: str, count: int) -> None:
        self.extractor, self.count = open_extractor(extractor), count
        if self.extractor.texts is None:
            raise UserError(f"the extractor {self.extractor.name} reads no texts; give clip:FOLDER")
        real = {kind: open_samples(f"{CORPUS}@{split}") for kind, split in SPLITS.items()}
        for samples in real.values():
            if not max(AT) < count <= samples.count:
                raise UserError(
                    f"count is {count}; give {max(AT) + 1} to {samples.count}, the pictures of "
                    f"{samples.name}"
                )
        self.pairs = {kind: some_pairs(each, count, self.extractor) for kind, each in real.items()}
        """By "held out" and "seen"."""

    def scores(self, model: str | Path, number: int = 0, **settings: Any) -> dict[str, float]:
        """Scores of one set by "NAME, SPLIT"."""
        pipe, found = open_model(str(model)), {}
        for kind, pairs in self.pairs.items():
            features = draw(pipe, pairs.captions, number, self.extractor, **settings)
            each = numbers(pairs.reference, features, self.extractor, pairs.captions)
            found |= {f"{name}, {kind}": value for name, value in each.items()}
        return found
