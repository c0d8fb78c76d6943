"""The ruler measured on itself: its floor, noise, lost modes, few samples, copies."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from rectangles import make_pictures, write_pictures

from jaxdiff.errors import UserError
from jaxdiff.evaluate.agreement import agreement, number_captions
from jaxdiff.evaluate.counts import share_interval, spread
from jaxdiff.evaluate.diversity import diversity
from jaxdiff.evaluate.features import Extractor, features_of
from jaxdiff.evaluate.frechet import extrapolated, frechet_distance, moments
from jaxdiff.evaluate.kernel import cmmd, kid
from jaxdiff.evaluate.manifold import manifold
from jaxdiff.evaluate.memorisation import audit, beta_binomial_tail
from jaxdiff.evaluate.samples import open_samples

_MODES, _SIZE = 8, 16


def _modes(count, seed, modes=_MODES):
    """Features about a few centres, as many about each: a corpus of some kinds of pictures."""
    centres = 2 * np.random.default_rng(7).normal(size=(_MODES, _SIZE))
    noise = np.random.default_rng(seed).normal(size=(count, _SIZE))
    return (centres[np.arange(count) % modes] + noise).astype(np.float32)


def _all(real, fake):
    scores = {"frechet": frechet_distance(moments(real), moments(fake))}
    scores["kid"] = kid(real, fake, subsets=20, size=200).mean
    scores["cmmd"] = cmmd(real, fake).unbiased
    return scores | manifold(real, fake)._asdict()


def test_half_against_half_is_the_floor():
    """Two halves of one set: near 0 for distances, near 1 for shares; below all that follows."""
    everything = _modes(2000, 0)
    floor = _all(everything[:1000], everything[1000:])
    print("half against half:", {name: round(value, 4) for name, value in floor.items()})
    worse = _all(everything[:1000], everything[1000:] + 0.3)
    for name in ("frechet", "kid", "cmmd"):
        assert floor[name] < 0.2 * worse[name]
    for name in ("precision", "recall", "density", "coverage"):
        assert floor[name] > 0.85


def test_noise_raises_every_distance():
    """Monotonically with its strength; precision, density and coverage fall."""
    real, fake = _modes(600, 0), _modes(600, 1)
    noise = np.random.default_rng(2).normal(size=fake.shape)
    rows = [_all(real, fake + strength * noise) for strength in (0, 1, 2, 3, 4)]
    for name in rows[0]:
        print(f"noise 0, 1, 2, 3, 4: {name}", [round(row[name], 4) for row in rows])
    for before, after in zip(rows, rows[1:], strict=False):
        for name in ("frechet", "kid", "cmmd"):
            assert after[name] > before[name]
        for name in ("precision", "density", "coverage"):
            assert after[name] < before[name] or before[name] == 0


def test_lost_modes_lower_recall_and_not_precision():
    real = _modes(600, 0)
    rows = [_all(real, _modes(600, 1, modes)) for modes in (8, 6, 4, 2)]
    for name in rows[0]:
        print(f"8, 6, 4, 2 of 8 modes: {name}", [round(row[name], 4) for row in rows])
    for before, after in zip(rows, rows[1:], strict=False):
        assert after["recall"] < before["recall"] - 0.1
        assert after["coverage"] < before["coverage"] - 0.1
        assert after["frechet"] > before["frechet"]
    assert min(row["precision"] for row in rows) > rows[0]["precision"] - 0.04


def _gaussian(count, seed, shift=0.0):
    mix = np.random.default_rng(7).normal(size=(_SIZE, _SIZE)) / _SIZE**0.5
    return np.random.default_rng(seed).normal(size=(count, _SIZE)) @ mix + shift


@pytest.mark.parametrize("shift", [0.0, 0.2])
def test_the_extrapolated_distance_has_little_bias(shift):
    """The distance is D shift^2; few samples say more, and the line mends it."""
    raw, mended = [], []
    for seed in range(10):
        a, b = _gaussian(200, 2 * seed), _gaussian(200, 2 * seed + 1, shift)
        raw.append(frechet_distance(moments(a), moments(b)))
        mended.append(extrapolated(a, b, seed))
    true = _SIZE * shift**2
    print(f"Fréchet distance {true:.2f} by 200 and 200: {spread(raw)}, mended {spread(mended)}")
    assert abs(np.mean(mended) - true) < 0.2 * (np.mean(raw) - true)
    everything = moments(_gaussian(20_000, 99))  # a reference whose features are gone
    one = moments(_gaussian(200, 0, shift))
    again = extrapolated(everything, _gaussian(200, 0, shift))
    assert abs(again - true) < 0.5 * (frechet_distance(everything, one) - true)


def test_the_distance_falls_with_the_number_of_samples():
    everything = moments(_modes(20_000, 0))
    rows = [frechet_distance(everything, moments(_modes(n, 1))) for n in (50, 200, 800, 3200)]
    assert rows == sorted(rows, reverse=True) and rows[0] > 5 * rows[-1]


def test_moments_are_numpys():
    x = _modes(50, 0)
    np.testing.assert_allclose(moments(x).covariance, np.cov(x.astype(float), rowvar=False))
    np.testing.assert_allclose(moments(x).mean, x.astype(float).mean(0))


# ---------------------------------------------------------------------------------------- copies


def _corpus():
    """Training and held-out pictures of one kind, and new ones of a model that copies none."""
    return (_modes(count, seed) for count, seed in ((800, 0), (200, 1), (300, 2)))


def test_copies_trip_the_audit():
    """Copies with a little noise are flagged, and they alone, beside their originals."""
    training, held_out, fresh = _corpus()
    innocent = audit(fresh, training, held_out)
    noise = np.random.default_rng(3).normal(size=(30, _SIZE))
    copied = fresh.copy()
    copied[:30] = training[100:130] + 0.05 * noise
    guilty = audit(copied, training, held_out)
    print(f"no copies: {innocent.flagged} of 300, p {innocent.p_value:.3f}")
    print(f"30 copies: {guilty.flagged} of 300, {guilty.interval}, p {guilty.p_value:.2g}")
    assert innocent.p_value > 0.05
    assert guilty.p_value < 0.001 and guilty.flagged >= 30
    assert (guilty.p_values[:30] <= 0.01).all()
    np.testing.assert_array_equal(guilty.places[:30, 0], np.arange(100, 130))
    np.testing.assert_array_equal(
        guilty.p_values <= 0.01, guilty.distances[:, 0] < guilty.threshold
    )


def test_the_audit_keeps_its_level():
    """Over many corpora without copies, the set's p-value is small as often as it says.

    Of 300, at most 30 are expected, and P(> 45) is 0.3%; a binomial p-value, which takes the
    calibration for exact, would be small for some 70.
    """
    small = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        training, held_out, fresh = (rng.normal(size=(n, 6)) for n in (50, 99, 1000))
        small += audit(fresh, training, held_out).p_value <= 0.1
    print(f"p at most 0.1: {small} of 300")
    assert small <= 45


def test_exact_copies_are_all_flagged():
    """Rounding does not decide: they are at distance 0, whatever the features' lengths."""
    training, held_out, fresh = _corpus()
    fresh[:20] = training[:20]
    found = audit(fresh, training, held_out)
    assert (found.distances[:20, 0] == 0).all() and found.flags[:20].all() and found.copies == 0
    held_out[:5] = training[50:55]  # a corpus that holds pictures twice: copies look innocent
    found = audit(fresh, training, held_out)
    assert found.copies == 5 and not found.flags.any()


def test_copies_in_a_padded_batch_are_exact(tmp_path):
    """One program sums in another order than the next: a copy is a copy in the last batch too."""
    training, drawn, held_out = (make_pictures(n, n, 64) for n in (64, 33, 99))
    drawn[[0, 32]] = training[[5, 6]]  # in the full batch, and alone in the padded one
    held_out[[1, 98]] = training[[7, 8]]  # the same of the real ones, which have a tail of three
    rng = np.random.default_rng(0)
    weights = (1 + rng.normal(size=(64 * 64 * 3, 256)) / 8).astype(np.float32)  # far from 0

    def embed(weights, images):
        return (images.reshape(len(images), -1) / 255.0) @ weights

    alone = Mesh(np.array(jax.devices()[:1]), ("data",))  # with 32 pictures in a full batch
    extractor = Extractor("sums", embed, weights, mesh=alone)
    features = []
    for name, pictures in (("drawn", drawn), ("training", training), ("held", held_out)):
        write_pictures(tmp_path / name, pictures)
        features.append(features_of(open_samples(tmp_path / name), extractor))
    print("a copy is off by", np.abs(features[0][32] - features[1][6]).max())
    found = audit(*features, level=0.03)
    assert (found.distances[[0, 32], 0] == 0).all() and found.copies == 2
    np.testing.assert_array_equal(found.places[[0, 32], 0], [5, 6])
    assert found.distances[1:32, 0].min() > 0 and found.flags[[0, 32]].all()


def test_rounding_makes_no_copy_of_a_near_picture():
    """What float32 explains is at distance 0, also far from the origin, and no more is."""
    training, held_out, fresh = (each + 100 for each in _corpus())
    signs = np.random.default_rng(5).choice([-1, 1], size=(20, _SIZE))
    fresh[:20] = training[:20] * (1 + 2e-6 * signs)
    fresh[20:40] = training[20:40] * (1 + 2e-4 * signs)
    found = audit(fresh, training, held_out)
    assert (found.distances[:20, 0] == 0).all() and (found.distances[20:40, 0] > 0).all()


def test_beta_binomial_tail():
    """Sums to 1, is the binomial where the calibration is large, and is exact for one trial."""
    assert beta_binomial_tail(0, 20, 2, 98) == pytest.approx(1)
    binomial = 1 - 0.99**100
    assert beta_binomial_tail(1, 100, 10**6, 99 * 10**6) == pytest.approx(binomial, abs=1e-4)
    assert beta_binomial_tail(1, 1, 2, 8) == pytest.approx(0.2)


# --------------------------------------------------------------------------- prompts and pictures


def test_agreement_of_pictures_that_show_their_caption():
    rng = np.random.default_rng(0)
    texts, own = rng.normal(size=(50, 32)), np.arange(200) % 50
    noise = rng.normal(size=(200, 32))
    rows = [agreement(texts[own] + s * noise, texts, own, (1, 10)) for s in (0, 1, 3, 100)]
    print("agreement with growing noise:", [(round(r.score, 1), r.retrieval) for r in rows])
    assert rows[0].score == pytest.approx(100) and rows[0].retrieval == {1: 1.0, 10: 1.0}
    for before, after in zip(rows, rows[1:], strict=False):
        assert after.score < before.score and after.retrieval[1] < before.retrieval[1]
    assert rows[-1].retrieval[10] == pytest.approx(10 / 50, abs=0.1)  # chance


def test_a_network_that_tells_nothing_apart_retrieves_nothing():
    same = np.ones((30, 4))
    assert agreement(same, same, np.arange(30), (1, 10)).retrieval == {1: 0.0, 10: 0.0}


def test_captions_that_occur_twice_are_one():
    captions, own = number_captions(["a", "b", "a", "c"])
    found = agreement(np.eye(3)[own], np.eye(3), own, (1, 10))
    assert captions == ["a", "b", "c"] and found.retrieval == {1: 1.0}


def test_diversity():
    """n orthogonal pictures of a prompt count as n, n alike ones as one."""
    features = np.concatenate([np.eye(4), np.ones((4, 4))])
    found = diversity(features, np.repeat([0, 1], 4))
    assert found.distance.mean == pytest.approx(0.5) and found.vendi.mean == pytest.approx(2.5)
    alone = diversity(np.concatenate([features, np.eye(4)[:1]]), np.repeat([0, 1, 2], [4, 4, 1]))
    assert alone.distance.count == 2 and alone.pictures == 4


def test_intervals():
    assert share_interval(0, 10)[0] == 0 and share_interval(10, 10)[1] == pytest.approx(1)
    assert spread([2.0]).count == 1 and np.isnan(spread([2.0]).std)


# ------------------------------------------------------------------------------- too few samples


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: kid(_modes(50, 0), _modes(9, 1), size=10), "at least 10 samples, not 9"),
        (lambda: cmmd(_modes(1, 0), _modes(9, 1)), "at least 2 reference pictures, not 1"),
        (lambda: manifold(_modes(9, 0), _modes(5, 1), 5), "at least 6 samples, not 5"),
        (lambda: moments(_modes(1, 0)), "at least 2 samples, not 1"),
        (lambda: extrapolated(_modes(33, 0), _modes(99, 1)), "at least 34 samples, not 33"),
        (
            lambda: audit(_modes(5, 0), _modes(50, 1), _modes(98, 2)),
            "at least 99 held out pictures, not 98",
        ),
        (
            lambda: diversity(_modes(3, 0), np.arange(3)),
            "at least 2 pictures of a prompt, not 1",
        ),
        (
            lambda: agreement(_modes(3, 0), _modes(1, 0), np.zeros(3, int)),
            "at least 2 different captions, not 1",
        ),
    ],
)
def test_too_few_samples_are_refused(call, said):
    with pytest.raises(UserError) as caught:
        call()
    print(caught.value)
    assert said in str(caught.value) and "\n" not in str(caught.value)
