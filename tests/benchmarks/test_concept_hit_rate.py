"""The concept hit rate: what counts as a hit, its interval, and a whole measurement."""

import numpy as np
import pytest

from benchmarks.concept_hit_rate import Arguments, Gallery, Rate, choose_pairs, measure
from jaxdiff.pipelines import TextToImage


def _unit(degrees):
    angle = np.radians(np.asarray(degrees, float))
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


GALLERY = Gallery(_unit([0, 10, 90, 100]), np.array(["cat", "dog", "cat", "sun"]))


def test_a_hit_is_the_subject_among_the_nearest():
    picture = _unit([4])
    assert GALLERY.hits(picture, ["cat"], 1) == 1
    assert GALLERY.hits(picture, ["dog"], 1) == 0
    assert GALLERY.hits(picture, ["dog"], 2) == 1
    assert GALLERY.hits(picture, ["sun"], 3) == 0


def test_a_real_picture_is_no_neighbour_of_itself():
    own = [0, 3]
    pictures, subjects = GALLERY.latents[own], GALLERY.subjects[own]
    assert GALLERY.hits(pictures, subjects, 1) == 2
    assert GALLERY.hits(pictures, subjects, 1, own=own) == 0  # 0's nearest is a dog, 3's a cat


@pytest.mark.parametrize(
    "hits, count, low, high",
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634)],
)
def test_interval_of_wilson(hits, count, low, high):
    """z^2 / (n + z^2) at the ends; symmetric about one half."""
    np.testing.assert_allclose(Rate("", hits, count).interval, (low, high), atol=1e-4)


def test_pairs_are_chosen_evenly():
    examples = [{"id": i} for i in range(7)]
    chosen = [e["id"] for e in choose_pairs(examples, 20, np.random.default_rng(0))]
    assert sorted(np.bincount(chosen)) == [2, 3, 3, 3, 3, 3, 3]
    assert sorted(chosen[:7]) == list(range(7))


def test_whole_measurement(tiny_model_dir):
    """Random weights find nothing; the counts and the exact rates of known corpora are right."""
    rng = np.random.default_rng(0)

    def example(subject, image):
        return {"subject": subject, "caption": f"{subject}, noto style", "image": image}

    noise = rng.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    train = [example(f"thing {i}", image) for i, image in enumerate(noise)]
    heldout = [example("thing 2", noise[2]), example("other", noise[0] // 2)]
    args = Arguments(count=3, neighbours=1, steps=3)  # as other tests: compiled once
    rates = {r.name: r for r in measure(TextToImage.load(tiny_model_dir), train, heldout, args)}
    assert [rate.count for rate in rates.values()] == [3, 3, 2, 3]
    assert rates["real held-out pictures"].hits == 1  # thing 2 finds its twin, other cannot
