"""Properties that every forward process has, and the schedules that others publish."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.diffusion import process as P
from jaxdiff.errors import UserError

TIMES = np.linspace(0, 1, 1001)


def test_log_snr_falls_and_inverts(process):
    level = P.log_snr(process, TIMES)
    finite = np.isfinite(level)
    assert np.all(np.diff(level[finite]) < 0) and np.all(finite[1:-1])
    np.testing.assert_allclose(P.t_of_log_snr(process, level[finite]), TIMES[finite], atol=1e-12)
    float32 = P.t_of_log_snr(process, jnp.asarray(level[1:-1], jnp.float32))
    assert float32.dtype == jnp.float32
    np.testing.assert_allclose(float32, TIMES[1:-1], atol=2e-6)


def test_log_snr_beyond_the_process_is_clipped(process):
    np.testing.assert_allclose(P.t_of_log_snr(process, np.array([1e3, -1e3])), [0, 1], atol=1e-12)


def test_lam_is_half_of_log_snr(process):
    np.testing.assert_array_equal(2 * P.lam(process, TIMES), P.log_snr(process, TIMES))


def test_float32_jit_agrees_with_float64(process):
    t = jnp.asarray(TIMES, jnp.float32)
    for function in (process.alpha, process.sigma, process.timestep):
        single = jax.jit(function)(t)
        assert single.dtype == jnp.float32
        np.testing.assert_allclose(single, function(TIMES), rtol=3e-6, atol=1e-6)
        np.testing.assert_allclose(single, function(t), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("linear", np.hypot),
        ("zero_snr", np.hypot),
        ("cosine_shift", np.hypot),
        ("flow_shift", np.add),
        ("ve", lambda alpha, sigma: alpha),
        ("edm", lambda alpha, sigma: alpha),
    ],
)
def test_normalisation(make_process, name, norm):
    process = make_process(name)
    np.testing.assert_allclose(norm(process.alpha(TIMES), process.sigma(TIMES)), 1, rtol=1e-12)


@pytest.mark.parametrize("betas", [P.betas_cosine(n) for n in (10, 100, 1000)])
def test_discrete_levels_are_exact_at_their_knots(betas):
    process, n = P.vp(betas), len(betas)
    t = jnp.asarray(np.arange(1, n + 1) / n, jnp.float32)
    alpha_bar = np.cumprod(1 - betas)
    np.testing.assert_allclose(jax.jit(process.alpha)(t), np.sqrt(alpha_bar), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(process.sigma)(t), np.sqrt(1 - alpha_bar), rtol=1e-6)
    np.testing.assert_array_equal(jax.jit(process.timestep)(t), np.arange(n))


def test_ends(make_process):
    for name in ("linear", "zero_snr", "cosine", "flow", "flow_shift"):
        process = make_process(name)
        assert process.alpha(0.0) == 1 and process.sigma(0.0) == 0
    for name in ("zero_snr", "flow", "flow_shift"):
        process = make_process(name)
        assert process.alpha(1.0) == 0 and process.alpha(jnp.float32(1)) == 0
        assert process.sigma(1.0) == 1
        assert P.log_snr(process, 1.0) == -np.inf and P.log_snr(process, jnp.float32(1)) == -np.inf
    assert P.log_snr(make_process("flow"), 0.0) == np.inf
    assert make_process("ve").sigma(0.0) == pytest.approx(0.01)
    assert make_process("ve").sigma(1.0) == pytest.approx(50)
    assert make_process("ve").prior_std == 50
    assert make_process("edm").sigma(1.0) == pytest.approx(80)


def test_what_the_network_is_given(make_process):
    t = np.array([0.25, 0.5, 1.0])
    np.testing.assert_allclose(make_process("cosine").timestep(t), [249, 499, 999])
    flow = make_process("flow_shift")
    np.testing.assert_allclose(flow.timestep(t), 1000 * flow.sigma(t))
    np.testing.assert_allclose(P.edm().timestep(t), np.log(P.edm().sigma(t)) / 4)


def test_rates_are_derivatives(process):
    """Between the knots of a discrete process, off which its pieces are smooth."""
    with jax.enable_x64(True):
        t, h = jnp.asarray(np.linspace(0.02153, 0.97847, 6)), 1e-6
        for function, rate in zip((process.alpha, process.sigma), P.rates(process, t), strict=True):
            slope = (function(t + h) - function(t - h)) / (2 * h)
            np.testing.assert_allclose(rate, slope, rtol=1e-5, atol=1e-5)


def test_velocity_is_the_probability_flow_of_the_sde(process, rng):
    """alpha' x0 + sigma' eps = f x - g^2 score / 2 with score = -eps / sigma."""
    with jax.enable_x64(True):
        t = jnp.asarray([0.1, 0.5, 0.9])
        x0, eps = jnp.asarray(rng.normal(size=(2, 3, 2, 2, 1)))
        f, g2 = (level[:, None, None, None] for level in P.drift_and_diffusion(process, t))
        x, sigma = P.q_sample(process, x0, eps, t), process.sigma(t)[:, None, None, None]
        np.testing.assert_allclose(
            P.velocity(process, x0, eps, t), f * x + g2 * eps / sigma / 2, rtol=1e-8, atol=1e-8
        )


def test_velocity_is_finite_at_zero_terminal_snr(make_process):
    one = jnp.ones((1, 2, 2, 1))
    for name in ("zero_snr", "flow"):
        assert jnp.isfinite(P.velocity(make_process(name), one, one, jnp.ones(1))).all()
    flow = P.velocity(make_process("flow"), 3 * one, one, jnp.full(1, 0.3))
    np.testing.assert_allclose(flow, -2, rtol=1e-6)  # eps - x0


def test_q_sample(process, rng):
    x0, eps = jnp.asarray(rng.normal(size=(2, 3, 2, 2, 1)), jnp.float32)
    t = jnp.asarray([0.0, 0.4, 1.0])
    expected = [process.alpha(s) * a + process.sigma(s) * b for s, a, b in zip(t, x0, eps)]  # noqa: B905
    np.testing.assert_allclose(P.q_sample(process, x0, eps, t), np.stack(expected), rtol=1e-5)


@pytest.mark.parametrize("name", ["cosine", "zero_snr", "flow", "flow_shift", "ve", "edm"])
def test_resolution_shift_moves_log_snr(make_process, name):
    process, t = make_process(name), TIMES[1:-1]
    shifted = P.resolution_shift(process, 3.0)
    expected = P.log_snr(process, t) - 2 * np.log(3)
    tolerance = 0.02 if name == "zero_snr" else 1e-9  # its last interval is linear in the angle
    np.testing.assert_allclose(P.log_snr(shifted, t), expected, atol=tolerance)
    twice = P.resolution_shift(P.resolution_shift(process, 1.5), 2.0)
    np.testing.assert_allclose(P.log_snr(twice, t), P.log_snr(shifted, t), atol=1e-9)
    back = P.t_of_log_snr(shifted, P.log_snr(shifted, t))
    np.testing.assert_allclose(back, t, atol=1e-12)


def test_flow_shift_is_that_of_sd3():
    t, shift = TIMES, 3.0
    np.testing.assert_allclose(P.flow(shift).sigma(t), shift * t / (1 + (shift - 1) * t))


def test_zero_terminal_snr_keeps_the_first_level():
    betas = P.betas_scaled_linear()
    rescaled = P.zero_terminal_snr(betas)
    assert np.cumprod(1 - rescaled)[-1] == 0
    assert rescaled[0] == pytest.approx(betas[0], rel=1e-9)


@pytest.mark.parametrize(
    "make",
    [
        lambda: P.vp(np.array([0.1, 1.2])),
        lambda: P.vp(np.array([1.0, 0.5])),
        lambda: P.vp(np.array([0.0, 0.5])),
        lambda: P.vp(P.betas_linear(), shift=0.0),
        lambda: P.flow(-1.0),
        lambda: P.ve(2.0, 1.0),
        lambda: P.edm(0.0, 1.0),
    ],
)
def test_impossible_processes_are_refused(make):
    with pytest.raises(UserError, match="give|must"):
        make()


@pytest.mark.parity
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (P.betas_linear(), {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}),
        (
            P.betas_scaled_linear(),
            {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        ),
        (P.betas_cosine(), {"beta_schedule": "squaredcos_cap_v2"}),
        (
            P.zero_terminal_snr(P.betas_scaled_linear()),
            {
                "beta_schedule": "scaled_linear",
                "beta_start": 0.00085,
                "beta_end": 0.012,
                "rescale_betas_zero_snr": True,
            },
        ),
    ],
    ids=["linear", "scaled_linear", "cosine", "zero_snr"],
)
def test_betas_of_diffusers(ours, theirs):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(num_train_timesteps=1000, **theirs)
    np.testing.assert_allclose(ours, scheduler.betas.numpy(), atol=1e-5)  # theirs are float32
    k = np.arange(1000)
    alpha = P.vp(ours).alpha((k + 1) / 1000)
    np.testing.assert_allclose(alpha**2, scheduler.alphas_cumprod.numpy(), rtol=2e-4, atol=1e-6)
