"""The table of predictions: every row inverts, on every process, up to both ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.diffusion import prediction as Q
from jaxdiff.errors import UserError

NAMES = list(Q.PREDICTIONS)


@pytest.fixture
def levels(process):
    """(alpha, sigma) [9] from one end of the process to the other."""
    t = jnp.linspace(0, 1, 9)
    return process.alpha(t), process.sigma(t)


@pytest.fixture
def pair(rng):
    """(x0, eps) [9 2 2 1]."""
    return jnp.asarray(rng.normal(size=(2, 9, 2, 2, 1)), jnp.float32)


def _column(level):
    return level[:, None, None, None]


def test_target_and_x0_invert_each_other(levels, pair):
    for name in NAMES:
        _inverts(name, *levels, *pair)


def _inverts(name, alpha, sigma, x0, eps):
    x_t = _column(alpha) * x0 + _column(sigma) * eps
    out = Q.target(name, x0, eps, alpha, sigma)
    recovered = Q.to_x0(name, out, x_t, alpha, sigma)
    known = alpha > 1e-3 if name == "eps" else alpha >= 0
    np.testing.assert_allclose(recovered[known], x0[known], rtol=1e-3, atol=2e-4)
    assert jnp.isfinite(recovered).all()
    noisy = sigma > 1e-3
    eps_back = Q.to_eps(name, out, x_t, alpha, sigma)
    tolerance = 1e-6 / np.asarray(_column(sigma)[noisy]) + 1e-5
    assert np.all(np.abs(eps_back[noisy] - eps[noisy]) < 20 * tolerance)
    assert jnp.isfinite(eps_back).all()


def test_gains_are_how_errors_of_the_output_travel(levels, pair):
    for name in NAMES:
        _gains(name, *levels, *pair)


def _gains(name, alpha, sigma, x0, eps):
    x_t = _column(alpha) * x0 + _column(sigma) * eps
    out, row = Q.target(name, x0, eps, alpha, sigma), Q.PREDICTIONS[name]
    wrong = Q.to_x0(name, out + 0.1, x_t, alpha, sigma)
    error = jnp.abs(wrong - Q.to_x0(name, out, x_t, alpha, sigma))
    gain = row.x0_gain(alpha, sigma)
    usable = jnp.isfinite(gain) & (gain < 100)
    expected = jnp.broadcast_to(0.1 * _column(gain), error.shape)
    np.testing.assert_allclose(error[usable], expected[usable], rtol=1e-3, atol=2e-5)
    both = usable & (sigma > 0)
    snr = (alpha / jnp.where(sigma > 0, sigma, 1)) ** 2
    np.testing.assert_allclose(
        (row.eps_gain(alpha, sigma) ** 2)[both], (snr * gain**2)[both], rtol=1e-5, atol=1e-12
    )


def test_eps_without_data_gives_the_mean_of_images():
    """At alpha = 0 an eps prediction says nothing of x0; neither value nor gradient is NaN."""
    one, level = jnp.ones((1, 2, 2, 1)), jnp.zeros(1)
    value = lambda out: Q.to_x0("eps", out, one, level, level + 1).sum()  # noqa: E731
    assert value(0.5 * one) == 0
    assert jnp.isfinite(jax.grad(value)(one)).all()
    assert (Q.eps_of_x0(one, one, level + 1, level) == 0).all()


def test_edm_is_karras_preconditioning(rng):
    """Table 1 of the paper, for x = x0 + sigma eps and data of any standard deviation."""
    s, sigma = 0.7, jnp.asarray([0.01, 1.0, 80.0])
    x0, eps, out = jnp.asarray(rng.normal(size=(3, 3, 2, 2, 1)), jnp.float32)
    x, row, one = x0 + _column(sigma) * eps, Q.edm(s), jnp.ones(3)
    norm = jnp.sqrt(sigma**2 + s**2)
    skip, scale = s**2 / norm**2, sigma * s / norm
    expected = _column(skip) * x + _column(scale) * out
    np.testing.assert_allclose(Q.to_x0(row, out, x, one, sigma), expected, rtol=1e-4, atol=1e-5)
    target = (x0 - _column(skip) * x) / _column(scale)
    np.testing.assert_allclose(Q.target(row, x0, eps, one, sigma)[1:], target[1:], rtol=1e-3)
    np.testing.assert_allclose(row.input_scale(one, sigma), 1 / norm, rtol=1e-6)
    many = jnp.asarray(rng.normal(size=(2, 3, 40, 40, 1)), jnp.float32)  # unit variance in and out
    net_in = row.input_scale(_column(one), _column(sigma)) * (
        s * many[0] + _column(sigma) * many[1]
    )
    np.testing.assert_allclose(net_in.std(axis=(1, 2, 3)), 1, atol=0.05)
    net_out = Q.target(row, s * many[0], many[1], one, sigma)
    np.testing.assert_allclose(net_out.std(axis=(1, 2, 3)), 1, atol=0.05)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("process_name", ["cosine", "flow_shift", "edm"])
def test_denoiser_of_a_perfect_network(name, process_name, make_process, rng):
    """A network that outputs the target makes a denoiser that outputs x0."""
    process = make_process(process_name)
    x0, eps = jnp.asarray(rng.normal(size=(2, 3, 2, 2, 1)), jnp.float32)
    t = jnp.asarray([0.1, 0.4, 0.8])
    alpha, sigma = process.alpha(t), process.sigma(t)
    x_t, row = _column(alpha) * x0 + _column(sigma) * eps, Q.PREDICTIONS[name]
    target = Q.target(name, x0, eps, alpha, sigma)

    def net(x, timestep):
        np.testing.assert_allclose(timestep, process.timestep(t), rtol=1e-6)
        scale = _column(jnp.broadcast_to(row.input_scale(alpha, sigma), t.shape))
        np.testing.assert_allclose(x, scale * x_t, rtol=1e-5, atol=1e-6)
        return target.astype(jnp.bfloat16)

    denoised = Q.denoiser(net, process, name)(x_t, t)
    assert denoised.dtype == jnp.float32
    gain = np.asarray(_column(jnp.broadcast_to(row.x0_gain(alpha, sigma), t.shape)))
    assert np.all(np.abs(denoised - x0) < gain * (2**-8 * np.abs(target) + 1e-4) + 1e-4)


def test_half_precision_output_is_cast_before_arithmetic(make_process):
    net = lambda x, timestep: x.astype(jnp.bfloat16)  # noqa: E731
    denoise = Q.denoiser(net, make_process("cosine"), "v")
    assert denoise(jnp.ones((2, 2, 2, 1)), jnp.full(2, 0.3)).dtype == jnp.float32
    assert denoise(jnp.ones((2, 2, 2, 1), jnp.bfloat16), jnp.full(2, 0.3)).dtype == jnp.float32


def test_unknown_prediction_lists_the_choices():
    with pytest.raises(UserError, match="unknown prediction 'epsilon'.*edm, eps, flow, v, x0"):
        Q.get_prediction("epsilon")
