"""The measures against other forms of their published definitions, on the same features."""

import numpy as np
import pytest

from jaxdiff.evaluate.counts import spread
from jaxdiff.evaluate.frechet import frechet_distance, moments
from jaxdiff.evaluate.kernel import cmmd, kid
from jaxdiff.evaluate.manifold import manifold

TOLERANCE = 1e-4


def _features(count, size, seed, shift=0.0, scale=1.0):
    """Correlated float32 features."""
    mix = np.random.default_rng(99).normal(size=(size, size)) / size**0.5
    noise = np.random.default_rng(seed).normal(size=(count, size))
    return (shift + scale * noise @ mix).astype(np.float32)


@pytest.mark.parity
@pytest.mark.parametrize(("count", "size"), [(500, 64), (300, 128), (100, 128)])
def test_frechet_distance_is_that_of_a_matrix_root(count, size):
    """Heusel et al. with scipy's `sqrtm`, regular and singular covariances (100 below 128)."""
    linalg = pytest.importorskip("scipy.linalg")
    a, b = _features(count, size, 0), _features(count, size, 1, shift=0.1, scale=1.2)
    ours = frechet_distance(moments(a), moments(b))
    (mean_a, mean_b), (cov_a, cov_b) = zip(
        *((x.mean(0, np.float64), np.cov(x.astype(np.float64), rowvar=False)) for x in (a, b)),
        strict=True,
    )
    root = linalg.sqrtm(cov_a @ cov_b)
    theirs = np.sum((mean_a - mean_b) ** 2) + np.trace(cov_a + cov_b - 2 * np.real(root))
    print(f"Fréchet distance, {count} of {size}: {ours:.6f}, by sqrtm {theirs:.6f}")
    assert ours == pytest.approx(theirs, abs=TOLERANCE)


def _kid_by_loops(x, y):
    """Binkowski et al. 2018, one pair after the other."""

    def kernel(a, b):
        return (float(np.dot(a.astype(np.float64), b.astype(np.float64))) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    within_x = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j)
    within_y = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j)
    across = sum(kernel(a, b) for a in x for b in y)
    return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * across / (n * m)


def test_kid_is_that_of_two_loops():
    """With subsets of all, every subset is the whole set."""
    x, y = _features(60, 16, 0), _features(60, 16, 1, shift=0.3)
    ours, theirs = kid(x, y, subsets=3, size=60), _kid_by_loops(x, y)
    print(f"KID: {ours.mean:.8f}, by loops {theirs:.8f}")
    assert ours.mean == pytest.approx(theirs, abs=TOLERANCE * abs(theirs))
    assert ours.std == pytest.approx(0, abs=1e-9)


def test_kid_is_unbiased_by_subsets():
    """The mean over subsets is near that of all, and the spread shrinks with their size."""
    x, y = _features(400, 16, 0), _features(400, 16, 1, shift=0.3)
    exact = kid(x, y, subsets=1, size=400).mean
    small, large = (kid(x, y, subsets=60, size=size) for size in (40, 160))
    assert small.mean == pytest.approx(exact, abs=4 * small.std / 60**0.5)
    assert large.std < small.std


def test_cmmd_is_that_of_two_loops():
    x, y = _features(40, 12, 0), _features(50, 12, 1, shift=0.3)
    unit_x, unit_y = (
        (f / np.linalg.norm(f, axis=1, keepdims=True)).astype(np.float64) for f in (x, y)
    )

    def mean(a, b):
        return np.mean([[np.exp(-np.sum((p - q) ** 2) / (2 * 10**2)) for q in b] for p in a])

    theirs = 1000 * (mean(unit_x, unit_x) + mean(unit_y, unit_y) - 2 * mean(unit_x, unit_y))
    ours = cmmd(x, y)
    print(f"CMMD: {ours.published:.6f}, by loops {theirs:.6f}")
    assert ours.published == pytest.approx(theirs, abs=TOLERANCE)


def test_cmmd_is_unbiased_where_it_says_so():
    """Two sets of one distribution: about 0 without the bias, and above it as published."""
    pairs = [cmmd(_features(80, 12, 2 * i), _features(80, 12, 2 * i + 1)) for i in range(30)]
    without, published = (spread([getattr(p, n) for p in pairs]) for n in ("unbiased", "published"))
    assert abs(without.mean) < 4 * without.std / 30**0.5
    assert published.mean > 5 * published.std / 30**0.5


def _prdc_by_hand(real, fake, k):
    """Naeem et al. 2020 with whole distance matrices of differences."""

    def distances(a, b):
        return np.sqrt(((a[:, None].astype(np.float64) - b[None]) ** 2).sum(-1))

    real_radii = np.sort(distances(real, real), axis=1)[:, k]
    fake_radii = np.sort(distances(fake, fake), axis=1)[:, k]
    between = distances(real, fake)
    return {
        "precision": (between < real_radii[:, None]).any(axis=0).mean(),
        "recall": (between < fake_radii[None]).any(axis=1).mean(),
        "density": (between < real_radii[:, None]).sum(axis=0).mean() / k,
        "coverage": (between.min(axis=1) < real_radii).mean(),
    }


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("scale", [0.7, 1.3])
def test_precision_and_recall_are_those_of_the_definition(k, scale):
    real, fake = _features(300, 16, 0), _features(200, 16, 1, 0.1, scale)
    ours, theirs = manifold(real, fake, k)._asdict(), _prdc_by_hand(real, fake, k)
    print(f"k {k}:", {name: (round(ours[name], 6), round(theirs[name], 6)) for name in ours})
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=TOLERANCE)


@pytest.mark.parity
def test_precision_and_recall_are_those_of_prdc():
    """The package of Naeem et al., where it is installed."""
    prdc = pytest.importorskip("prdc")
    real, fake = _features(1500, 16, 0), _features(1200, 16, 1, 0.1, 0.9)
    ours, theirs = manifold(real, fake, 5)._asdict(), prdc.compute_prdc(real, fake, 5)
    print({name: (round(ours[name], 6), round(float(theirs[name]), 6)) for name in ours})
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=TOLERANCE)


def test_blocks_change_nothing(monkeypatch):
    """Memory is bounded by blocks of rows; the scores are those of whole matrices."""
    from jaxdiff.evaluate import distances

    real, fake = _features(90, 8, 0), _features(70, 8, 1)
    whole = manifold(real, fake, 3), cmmd(real, fake)
    monkeypatch.setattr(distances, "BLOCK", 16)
    assert manifold(real, fake, 3) == whole[0]
    assert cmmd(real, fake) == pytest.approx(whole[1])
