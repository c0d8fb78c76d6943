"""Properties of every grid, and the levels of diffusers and k-diffusion."""

import jax
import numpy as np
import pytest

from jaxdiff.diffusion import grids as G
from jaxdiff.diffusion import process as P
from jaxdiff.errors import UserError


def test_grid_runs_from_noise_to_clean(process):
    for kind in G.GRIDS:
        for n in (1, 2, 7):
            _noise_to_clean(process, kind, n)


def _noise_to_clean(process, kind, n):
    grid = G.make_grid(process, kind, n)
    assert grid.n == n and grid.t.shape == (n + 1,) and grid.t_mid.shape == (n,)
    assert all(level.dtype == np.float32 for level in grid)
    assert grid.t[-1] == 0 and grid.alpha[-1] == 1 and grid.sigma[-1] == 0
    exact = G.grid_at(process, G.grid_times(process, kind, n))
    assert np.all(np.diff(exact.t) <= 0) and np.all(exact.sigma[:-1] > 0)
    s = exact.sigma[exact.alpha > 0] / exact.alpha[exact.alpha > 0]
    assert np.all(np.diff(s) < 0)
    np.testing.assert_allclose(exact.alpha[:-1], process.alpha(exact.t[:-1]), rtol=1e-12)


def test_midpoints_are_halfway_in_log_snr(process):
    for kind in G.GRIDS:
        _halfway(process, kind)


def _halfway(process, kind):
    grid = G.grid_at(process, G.grid_times(process, kind, 5))
    with np.errstate(divide="ignore"):
        s, mid = grid.sigma / grid.alpha, grid.sigma_mid / grid.alpha_mid
    inside = np.isfinite(s[:-1]) & (s[1:] > 0)
    np.testing.assert_allclose(mid[inside], np.sqrt(s[:-1] * s[1:])[inside], rtol=1e-8)
    np.testing.assert_array_equal(grid.t_mid[~inside], grid.t[1:][~inside])
    np.testing.assert_allclose(grid.alpha_mid[:-1], process.alpha(grid.t_mid[:-1]), rtol=1e-9)


def test_grids_in_sigma_are_evenly_spaced_where_they_say(make_process):
    for name in ("scaled_linear", "edm"):
        process = make_process(name)
        for kind, even in (("karras", lambda s: s ** (1 / 7)), ("exponential", np.log)):
            grid = G.grid_at(process, G.grid_times(process, kind, 9))
            s = even((grid.sigma / grid.alpha)[:-1])
            np.testing.assert_allclose(np.diff(s), np.diff(s)[0], rtol=1e-7)
    edm = G.grid_at(P.edm(), G.grid_times(P.edm(), "karras", 9))
    np.testing.assert_allclose(edm.sigma[[0, -2]], [80, 0.002])
    np.testing.assert_allclose(edm.t[:-1], np.linspace(1, 0, 9), atol=1e-12)  # EDM's own time


def test_uniform_in_log_snr_is_exponential(process):
    np.testing.assert_array_equal(
        G.grid_times(process, "log_snr", 6), G.grid_times(process, "exponential", 6)
    )


def test_zero_terminal_snr_starts_at_pure_noise(make_process):
    for name in ("zero_snr", "flow"):
        for kind in ("karras", "exponential", "trailing", "linspace"):
            grid = G.make_grid(make_process(name), kind, 4)
            assert grid.t[0] == 1 and grid.alpha[0] == 0 and grid.sigma[0] == 1


def test_given_ends_are_kept(make_process):
    times = G.grid_times(make_process("cosine"), "karras", 5, sigma_min=0.1, sigma_max=10.0)
    grid = G.grid_at(make_process("cosine"), times)
    np.testing.assert_allclose((grid.sigma / grid.alpha)[[0, -2]], [10, 0.1])


def test_new_values_compile_nothing(make_process):
    compiled = []

    @jax.jit
    def total(grid):
        compiled.append(1)
        return grid.alpha.sum() + grid.sigma.sum() + grid.n

    for kind in G.GRIDS:
        total(G.make_grid(make_process("cosine"), kind, 6))
    assert len(compiled) == 1


@pytest.mark.parametrize(
    ("name", "kind", "n", "options", "words"),
    [
        ("cosine", "linear", 5, {}, "choose one of: exponential, karras, leading"),
        ("cosine", "karras", 0, {}, "at least 1"),
        ("cosine", "trailing", 1001, {}, "1000 levels"),
        ("cosine", "leading", 10, {"steps_offset": 200}, "smaller"),
        ("ve", "karras", 10, {"sigma_max": 51.0}, "0.01 to 50"),
        ("ve", "karras", 10, {"sigma_min": 0.001}, "0.01 to 50"),
        ("cosine", "karras", 10, {"sigma_min": 2.0, "sigma_max": 1.0}, "in order"),
    ],
)
def test_impossible_grids_are_refused(make_process, name, kind, n, options, words):
    with pytest.raises(UserError, match=words):
        G.make_grid(make_process(name), kind, n, **options)


# --------------------------------------------------------------------- diffusers

SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def _levels(scheduler, n):
    scheduler.set_timesteps(n)
    return scheduler.timesteps.numpy()


@pytest.mark.parity
@pytest.mark.parametrize("n", [4, 10, 30, 50])
@pytest.mark.parametrize(
    ("kind", "offset"), [("leading", 0), ("leading", 1), ("trailing", 0), ("linspace", 0)]
)
def test_timesteps_of_ddim_and_sigmas_of_euler(make_process, kind, offset, n):
    diffusers = pytest.importorskip("diffusers")
    options = {**SCALED, "timestep_spacing": kind, "steps_offset": offset}
    process = make_process("scaled_linear")
    grid = G.make_grid(process, kind, n, steps_offset=offset)
    ddim = _levels(diffusers.DDIMScheduler(**options), n)
    np.testing.assert_array_equal(process.timestep(grid.t[:-1]), ddim)
    euler = diffusers.EulerDiscreteScheduler(**options)
    whole = _levels(euler, n)
    if np.all(whole == np.round(whole)):  # Euler's linspace is not rounded
        s = np.asarray(grid.sigma / grid.alpha)
        np.testing.assert_allclose(s, euler.sigmas.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["karras", "exponential"])
@pytest.mark.parametrize("schedule", ["scaled_linear", "cosine"])
def test_sigmas_and_times_of_euler(make_process, kind, schedule):
    diffusers = pytest.importorskip("diffusers")
    betas = SCALED if schedule == "scaled_linear" else {"beta_schedule": "squaredcos_cap_v2"}
    euler = diffusers.EulerDiscreteScheduler(**betas, **{f"use_{kind}_sigmas": True})
    timesteps = _levels(euler, 12)
    process = make_process(schedule)
    grid = G.make_grid(process, kind, 12)
    s = np.asarray(grid.sigma / grid.alpha)
    np.testing.assert_allclose(s, euler.sigmas.numpy(), rtol=2e-3 if schedule == "cosine" else 1e-4)
    ours = process.timestep(grid.t[:-1])
    np.testing.assert_allclose(ours, timesteps, atol=0.1)  # theirs from float32 betas


@pytest.mark.parity
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_sigmas_of_flow_match(shift):
    """Theirs are linspace over the process, whose end they shift before all levels are shifted."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    timesteps, process = _levels(scheduler, 9), P.flow(shift)
    times = np.linspace(1, process.sigma(1 / 1000), 9)
    np.testing.assert_allclose(process.sigma(times), scheduler.sigmas[:-1], rtol=1e-5)
    np.testing.assert_allclose(process.timestep(times), timesteps, rtol=1e-5)
    if shift == 1:
        grid = G.make_grid(process, "linspace", 9)
        np.testing.assert_allclose(grid.sigma, scheduler.sigmas, rtol=1e-5)


@pytest.mark.parity
def test_sigmas_of_edm():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0)
    timesteps = _levels(scheduler, 15)
    grid = G.make_grid(P.edm(), "karras", 15)
    np.testing.assert_allclose(grid.sigma, scheduler.sigmas.numpy(), rtol=1e-4)
    np.testing.assert_allclose(P.edm().timestep(grid.t[:-1]), timesteps, rtol=1e-4, atol=1e-4)
