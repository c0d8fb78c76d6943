"""Models beside real pictures: synonyms are what they should be, the floor is of equal counts."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import quality
from benchmarks.quality import floor, require_unknown, show
from jaxdiff.data.synonyms import Synonym, read_synonyms
from jaxdiff.errors import UserError

KNOWN = ["cat, noto style", "cat, fluent style", "fire engine, noto style"]


def test_synonyms_of_the_repo_are_lines_of_the_form():
    found = read_synonyms(quality.Arguments().synonyms)
    assert len(found) > 50 and len({each.word for each in found}) == len(found)


@pytest.mark.parametrize(
    ("word", "subject", "said"),
    [
        ("cat", "fire engine", "'cat' has it"),
        ("engine", "cat", "'fire engine' has it"),
        ("puppy", "dog", "'dog' is no subject"),
    ],
)
def test_words_of_captions_are_no_synonyms(word, subject, said):
    with pytest.raises(UserError, match=said):
        require_unknown([Synonym(word, subject)], KNOWN)
    require_unknown([Synonym("kitten", "cat"), Synonym("fire truck", "fire engine")], KNOWN)


def test_the_floor_is_of_equal_counts(monkeypatch):
    """Two halves of one Gaussian: a distance that is all bias, several times over."""
    counts, real = [], quality.numbers

    def numbers(reference, samples, *rest):
        counts.append((reference.moments.count, len(samples)))
        return real(reference, samples, *rest)

    monkeypatch.setattr(quality, "numbers", numbers)
    features = np.random.default_rng(0).normal(size=(400, 4)).astype(np.float32)
    judge = SimpleNamespace(extractor=SimpleNamespace(name="clip-of-a-test", texts=None))
    found = floor(features, 100, judge)
    assert counts == [(100, 100)] * 5
    assert all(len(values) == 5 for values in found.values())
    assert 0 < np.mean(found["Fréchet distance"]) < 0.5
    assert np.mean(found["precision"]) > 0.6


def test_the_table(capsys):
    show("held out", {"real": {"KID": [1.0, 3.0]}, "ours": {"KID": [2.0], "distance": [0.5]}})
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines == [
        "held out",
        "| measure | real | ours |",
        "|---|---|---|",
        "| KID | 2 ± 1.4 | 2 |",
        "| distance | – | 0.5 |",
    ]
