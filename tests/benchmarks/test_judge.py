"""What a model draws is judged beside the real pictures of the same captions."""

import dataclasses

import numpy as np
import pytest

from benchmarks import judge
from jaxdiff.errors import UserError
from jaxdiff.evaluate.extractors import open_extractor
from jaxdiff.evaluate.features import Texts
from jaxdiff.evaluate.samples import Samples

COUNT = 14
PICTURES = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), np.uint8)
CAPTIONS = [f"thing {number}" for number in range(COUNT)]


@pytest.fixture
def corpus(monkeypatch):
    """Fourteen pictures in both splits, and an extractor that knows which caption each has."""
    pixels = open_extractor("pixels:2")
    embeddings = pixels([PICTURES])

    def texts(captions):
        return Texts(
            embeddings[[CAPTIONS.index(each) for each in captions]], np.arange(len(captions))
        )

    def open_samples(name):
        return Samples(name, COUNT, lambda: iter([PICTURES]), lambda: CAPTIONS)

    monkeypatch.setattr(judge, "open_extractor", lambda _: dataclasses.replace(pixels, texts=texts))
    monkeypatch.setattr(judge, "open_samples", open_samples)


class Copier:
    """A model that draws the real picture of a caption, and keeps the seeds."""

    seeds: list = []

    def __call__(self, captions, seeds, **settings):
        self.seeds.append(list(seeds))
        return PICTURES[[CAPTIONS.index(caption) for caption in captions]]


def test_pictures_captions_and_features_belong_together(corpus, monkeypatch):
    """Drawing the very pictures: no distance, and every caption is found."""
    monkeypatch.setattr(judge, "open_model", lambda _: Copier())
    Copier.seeds.clear()
    ours = judge.Judge("any", 12)
    found = ours.scores("any", 2)
    assert found["Fréchet distance, held out"] == pytest.approx(0, abs=1e-3)
    assert found["retrieval at 1, held out"] == found["retrieval at 1, seen"] == 1
    assert Copier.seeds == [list(range(24, 36))] * 2
    assert len(set(ours.pairs["seen"].captions)) == 12


@pytest.mark.parametrize("count", [10, 15])
def test_counts_out_of_range_are_refused_at_once(count, corpus):
    with pytest.raises(UserError, match=f"count is {count}; give 11 to 14"):
        judge.Judge("any", count)
