"""Weights agree across predictions, levels have their distributions, losses belong to examples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.diffusion import losses as L
from jaxdiff.diffusion import prediction as Q
from jaxdiff.diffusion import process as P
from jaxdiff.errors import UserError
from jaxdiff.rng import image_keys

BATCH_KEY = jax.random.key(5)


def _loss(net, process, prediction, x0, keys, levels="uniform", weighting="uniform", **options):
    return L.diffusion_loss(
        net, process, prediction, x0, keys, levels=L.make_levels(levels),
        weighting=L.make_weighting(weighting), batch_key=BATCH_KEY, **options,
    )  # fmt: skip


# ------------------------------------------------------------------------------- weights


PRINTED = {
    "min_snr": lambda snr: np.minimum(snr, 5.0),
    "edm": lambda snr: (1 / snr + 0.25) / (0.25 / snr),
    "sigmoid": lambda snr: snr / (1 + snr),
}


def test_weight_in_x0_is_the_printed_one_for_every_prediction(process):
    """weight / x0_gain^2, the weight of the error of x0, depends on the level alone."""
    t = jnp.linspace(0.05, 0.95, 7)
    alpha, sigma = process.alpha(t), process.sigma(t)
    for weighting, printed in PRINTED.items():
        for name, row in Q.PREDICTIONS.items():
            weight = L.make_weighting(weighting)(alpha, sigma, row)
            in_x0 = weight / row.x0_gain(alpha, sigma) ** 2
            expected = printed(np.asarray((alpha / sigma) ** 2, np.float64))
            np.testing.assert_allclose(in_x0, expected, rtol=1e-4, err_msg=f"{weighting}, {name}")


def test_min_snr_of_hang_et_al():
    """min(1, gamma / SNR) for eps; min(SNR, gamma) / (SNR + 1) for v: both ends included."""
    sigma = jnp.asarray([0.0, 0.01, 0.3, 0.9, 1.0])
    alpha = jnp.sqrt(1 - sigma**2)
    snr = np.asarray(alpha**2) / np.maximum(np.asarray(sigma) ** 2, 1e-30)
    weight = L.min_snr(5.0)
    np.testing.assert_allclose(
        weight(alpha, sigma, Q.EPS), np.minimum(1, 5 / np.maximum(snr, 1e-30)), atol=1e-6
    )
    np.testing.assert_allclose(
        weight(alpha, sigma, Q.V), np.minimum(snr, 5) / (snr + 1), rtol=1e-4, atol=1e-6
    )


def test_edm_weight_is_one_for_the_edm_prediction():
    sigma = jnp.asarray([0.002, 0.5, 80.0])
    weight = L.edm_weight(0.7)(jnp.ones(3), sigma, Q.edm(0.7))
    np.testing.assert_allclose(weight, 1 / 0.7**2 * 0.7**2, rtol=1e-5)


def test_weights_are_finite_at_both_ends():
    alpha, sigma = jnp.asarray([1.0, 0.0]), jnp.asarray([0.0, 1.0])
    for weighting in L.WEIGHTINGS:
        for row in Q.PREDICTIONS.values():
            weight = L.make_weighting(weighting)(alpha, sigma, row)
            assert jnp.isfinite(weight).all() and (weight >= 0).all()


# -------------------------------------------------------------------------------- levels


def _times(kind, process, count=20000, **options):
    levels = L.make_levels(kind, **options)
    return levels(process, image_keys(range(count)), BATCH_KEY, jnp.arange(count), count)


def test_uniform_and_stratified_levels(make_process):
    flow = make_process("flow")
    for kind in ("uniform", "stratified", "discrete"):
        t = _times(kind, flow)
        assert 0 <= t.min() and t.max() <= 1
        np.testing.assert_allclose(np.quantile(t, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.02)
    small = np.sort(_times("stratified", flow, 64))
    np.testing.assert_allclose(np.diff(small), 1 / 64, atol=1e-6)  # one in every interval


def test_logit_normal_levels(make_process):
    t = np.asarray(_times("logit_normal", make_process("flow"), mean=0.5, std=0.8), np.float64)
    logit = np.log(t / (1 - t))
    np.testing.assert_allclose([logit.mean(), logit.std()], [0.5, 0.8], atol=0.03)


@pytest.mark.parametrize("name", ["edm", "cosine", "flow"])
def test_edm_levels_are_lognormal_in_sigma_on_any_process(make_process, name):
    process = make_process(name)
    s = -P.lam(process, _times("edm_lognormal", process))
    np.testing.assert_allclose([s.mean(), s.std()], [-1.2, 1.2], atol=0.03)


def test_discrete_levels_are_knots(make_process):
    process = make_process("cosine")
    step = np.asarray(process.timestep(_times("discrete", process, n=1000)))
    np.testing.assert_array_equal(step, np.round(step))
    assert step.min() == 0 and step.max() == 999


def test_stratified_levels_of_a_shard_are_those_of_the_whole(make_process):
    """The place in the global batch decides, whichever process holds the example."""
    process, keys = make_process("flow"), image_keys(range(8))
    levels = L.stratified()
    whole = levels(process, keys, BATCH_KEY, jnp.arange(8), 8)
    part = levels(process, keys[4:], BATCH_KEY, jnp.arange(4, 8), 8)
    np.testing.assert_array_equal(whole[4:], part)


# ---------------------------------------------------------------------------------- loss


@pytest.fixture
def batch(rng):
    """(x0 [6 4 4 3], keys [6])."""
    return jnp.asarray(rng.normal(size=(6, 4, 4, 3)), jnp.float32), image_keys(range(6))


@pytest.mark.parametrize("name", list(Q.PREDICTIONS))
@pytest.mark.parametrize("weighting", ["uniform", "min_snr"])
def test_loss_is_weight_times_error(name, weighting, batch, make_process):
    """A network off by 0.1 everywhere costs 0.01 w(level)."""
    process, row, seen = make_process("flow_shift"), Q.PREDICTIONS[name], {}

    def levels(process, keys, batch_key, index, total):
        seen["t"] = L.uniform()(process, keys, batch_key, index, total)
        return seen["t"]

    def net(x, timestep):
        """Invert the input for eps, knowing x0, and output the target plus 0.1."""
        alpha, sigma = (f(seen["t"])[:, None, None, None] for f in (process.alpha, process.sigma))
        eps = (x / row.input_scale(alpha, sigma) - alpha * batch[0]) / sigma
        return row.target(batch[0], eps, alpha, sigma) + 0.1

    weigh = L.make_weighting(weighting)
    loss = L.diffusion_loss(net, process, name, *batch, levels=levels, weighting=weigh)
    alpha, sigma = process.alpha(seen["t"]), process.sigma(seen["t"])
    np.testing.assert_allclose(loss, 0.01 * weigh(alpha, sigma, row), rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("name", list(Q.PREDICTIONS))
def test_jit_is_eager(name, batch, make_process):
    process = make_process("zero_snr")

    def loss(x0, keys):
        net = lambda x, timestep: 0.3 * x  # noqa: E731
        weightings = L.WEIGHTINGS
        return [_loss(net, process, name, x0, keys, "stratified", w) for w in weightings]

    for jitted, eager in zip(jax.jit(loss)(*batch), loss(*batch), strict=True):
        assert eager.shape == (6,) and eager.dtype == jnp.float32 and jnp.isfinite(eager).all()
        np.testing.assert_allclose(jitted, eager, rtol=2e-4)


def test_gradients_are_finite_at_both_ends(batch, make_process):
    """t = 0 and t = 1 of a schedule with zero terminal SNR."""
    process = make_process("zero_snr")
    ends = lambda process, keys, *_: jnp.arange(keys.shape[0]) % 2 * 1.0  # noqa: E731

    @jax.jit
    @jax.jacrev
    def slopes(scale):
        net = lambda x, timestep: scale * x  # noqa: E731
        return [
            L.diffusion_loss(
                net, process, name, *batch, levels=ends, weighting=L.make_weighting(weighting)
            ).mean()
            for weighting in L.WEIGHTINGS
            for name in Q.PREDICTIONS
        ]

    assert np.isfinite(slopes(0.3)).all()


def test_an_example_costs_the_same_in_any_batch(batch, make_process):
    x0, keys = batch
    net = lambda x, timestep: 0.3 * x  # noqa: E731
    whole = _loss(net, make_process("cosine"), "v", x0, keys, "logit_normal", "min_snr")
    turned = _loss(
        net, make_process("cosine"), "v", x0[::-1], keys[::-1], "logit_normal", "min_snr"
    )
    single = _loss(net, make_process("cosine"), "v", x0[2:3], keys[2:3], "logit_normal", "min_snr")
    np.testing.assert_allclose(turned[::-1], whole, rtol=1e-6)
    np.testing.assert_allclose(single, whole[2:3], rtol=1e-6)


def test_the_best_network_reaches_the_posterior_variance(make_denoise, make_process, gaussian):
    """E|x0 - E[x0|x_t]|^2 of Gaussian data is alpha-free: c^2 sigma^2 / (alpha^2 c^2 + sigma^2)."""
    process, (mean, std) = make_process("cosine"), gaussian
    half = lambda process, keys, *_: jnp.full(keys.shape, 0.5)  # noqa: E731
    x0 = mean + std * jax.random.normal(jax.random.key(1), (256, 8, 8, 1))
    net = lambda x, timestep: make_denoise(process)(x, (timestep + 1) / 1000)  # noqa: E731
    loss = L.diffusion_loss(
        net, process, "x0", x0, image_keys(range(256)), levels=half, weighting=L.unweighted()
    )
    alpha, sigma = process.alpha(0.5), process.sigma(0.5)
    expected = std**2 * sigma**2 / (alpha**2 * std**2 + sigma**2)
    assert float(loss.mean()) == pytest.approx(expected, rel=0.03)


def test_unknown_names_list_the_choices_and_stratified_needs_its_key(batch, make_process):
    with pytest.raises(UserError, match="discrete, edm_lognormal, logit_normal"):
        L.make_levels("log_normal")
    with pytest.raises(UserError, match="edm, min_snr, sigmoid, uniform"):
        L.make_weighting("snr")
    with pytest.raises(ValueError, match="batch_key"):
        L.diffusion_loss(
            lambda x, t: x, make_process("flow"), "flow", *batch,
            levels=L.stratified(), weighting=L.unweighted(),
        )  # fmt: skip


def test_offset_noise_is_one_number_per_channel_and_leaves_the_rest_alone():
    @functools.partial(jax.jit, static_argnums=1)
    def noisy(keys, offset):
        seen = []

        def net(x_t, timestep):
            seen.append(x_t)
            return jnp.zeros_like(x_t)

        x0 = jnp.zeros((200, 4, 4, 2))
        _loss(net, P.edm(0.999, 1.0), "eps", x0, keys, noise_offset=offset)  # sigma is 1
        return seen[0]

    keys = image_keys(range(200))
    change = np.asarray(noisy(keys, 0.5) - noisy(keys, 0.0))
    np.testing.assert_allclose(change, np.broadcast_to(change[:, :1, :1], change.shape), atol=1e-5)
    each = change[:, 0, 0]
    assert each.std() == pytest.approx(0.5, rel=0.2)
    assert abs(np.corrcoef(each.T)[0, 1]) < 0.3
