"""Order of convergence of the deterministic samplers, and the coefficients it rests on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampler_kinds import ORDERS

from jaxdiff.diffusion import grids as G
from jaxdiff.diffusion import samplers as S
from jaxdiff.diffusion import stepping
from jaxdiff.rng import image_keys


def _final(denoise, sampler, process, kind, n, start):
    """The sample [B ...] after n steps in float64 from sigma / alpha = 80 to 0.1, and the grid."""
    times = G.grid_times(process, kind, n + 1, sigma_min=0.1, sigma_max=80.0)[:-1]
    grid = jax.tree.map(jnp.asarray, G.grid_at(process, times))
    run = jax.jit(lambda grid, x: S.sample(denoise, sampler, grid, x, image_keys([0])))
    return run(grid, start * jnp.hypot(grid.alpha[0], grid.sigma[0])), grid


def _order(errors):
    return np.log2(errors[-2] / errors[-1])


@pytest.mark.parametrize("kind", ["karras", "exponential"])
@pytest.mark.parametrize("name", ORDERS)
def test_order_on_a_gaussian(name, kind, make_process, make_denoise, gaussian):
    """x - alpha mean keeps its ratio to sqrt(alpha^2 std^2 + sigma^2): the exact solution."""
    process, (mean, std) = make_process("flow"), gaussian
    with jax.enable_x64(True):
        start, errors = jnp.linspace(-2, 2, 12).reshape(1, 3, 4, 1), []
        for n in (128, 256):
            x, grid = _final(make_denoise(process), S.make_sampler(name), process, kind, n, start)
            norm = jnp.sqrt(grid.alpha**2 * std**2 + grid.sigma**2)
            first = start * jnp.hypot(grid.alpha[0], grid.sigma[0]) - grid.alpha[0] * mean
            exact = grid.alpha[-1] * mean + norm[-1] / norm[0] * first
            errors.append(float(jnp.sqrt(jnp.mean((x - exact) ** 2))))
    assert _order(errors) == pytest.approx(ORDERS[name], abs=0.15), errors


@pytest.mark.parametrize("name", ORDERS)
def test_order_on_a_mixture(name, make_process, make_denoise):
    """Against UniPC with 4096 steps."""
    process = make_process("cosine")
    with jax.enable_x64(True):
        start = jnp.linspace(-2, 2, 12).reshape(1, 3, 4, 1)
        run = lambda name, n: _final(  # noqa: E731
            make_denoise(process, "mixture"), S.make_sampler(name), process, "karras", n, start
        )[0]
        best = run("unipc", 4096)
        errors = [float(jnp.sqrt(jnp.mean((run(name, n) - best) ** 2))) for n in (256, 512)]
    assert _order(errors) == pytest.approx(ORDERS[name], abs=0.15), errors


# ------------------------------------------------------------ singular points


def test_step_ratio_is_zero_wherever_it_is_undefined():
    r = jnp.asarray([0.5, 0.5, 0.0, 0.5, 0.25])
    before = jnp.asarray([1.0, 0.0, 0.5, 0.5, 0.5])
    np.testing.assert_allclose(stepping.step_ratio(r, before), [0, 0, 0, 1, 2], rtol=1e-6)
    np.testing.assert_allclose(stepping.log_step(r), [*2 * [np.log(2)], np.inf, np.log(2), np.log(4)], rtol=1e-6)  # noqa: E501 # fmt: skip


def test_langevin_and_its_series_agree():
    """The coefficients of UniC: continuous where the series takes over, with the right limits."""
    from jaxdiff.diffusion.samplers_ode import _langevin

    with jax.enable_x64(True):
        h = jnp.asarray([1e-6, 0.1, 0.999999, 1.000001, 3.0, 50.0])
        value, over = _langevin(h)
        np.testing.assert_allclose(value, over * h, rtol=1e-9)
        exact = 1 / np.tanh(np.asarray(h[1:]) / 2) - 2 / np.asarray(h[1:])
        np.testing.assert_allclose(value[1:], exact, rtol=1e-8)
        np.testing.assert_allclose(over[0], 1 / 6, rtol=1e-9)
    assert [float(part) for part in _langevin(jnp.float32(jnp.inf))] == [1.0, 0.0]
