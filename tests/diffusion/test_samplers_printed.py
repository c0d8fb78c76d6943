"""The shared updates against the printed form of each method, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.diffusion import grids as G
from jaxdiff.diffusion import samplers as S
from jaxdiff.rng import fold_each, image_keys, normal_each

SHAPE = (2, 2, 1)


@pytest.fixture
def trajectory(make_process, make_denoise):
    """(grid, denoise, x, keys) of 10 steps of scaled-linear VP, in float64 where enabled."""
    process = make_process("scaled_linear")
    keys = image_keys(range(4))
    with jax.enable_x64(True):
        times = G.grid_times(process, "trailing", 10)
        grid = jax.tree.map(jnp.asarray, G.grid_at(process, times))
        x = normal_each(keys, SHAPE).astype(jnp.float64)
    return grid, make_denoise(process, "mixture"), x, keys


def _printed(grid, denoise, x, keys, step):
    """Run a printed update in numpy: step(x, x0, z, i) -> x."""
    for i in range(grid.n):
        x0 = np.asarray(denoise(jnp.asarray(x), jnp.full(x.shape[0], grid.t[i])))
        x = step(np.asarray(x), x0, np.asarray(normal_each(fold_each(keys, i), SHAPE)), i)
    return x


def test_ddpm_is_the_posterior_of_ho_et_al(trajectory):
    """Eq. 6 and 7, on the alpha_bar of the levels visited."""
    grid, denoise, x, keys = trajectory
    bar = np.asarray(grid.alpha) ** 2

    def step(x, x0, z, i):
        here, after = bar[i], bar[i + 1]
        beta = 1 - here / after
        mean = np.sqrt(after) * beta / (1 - here) * x0
        mean = mean + np.sqrt(here / after) * (1 - after) / (1 - here) * x
        return mean + np.sqrt((1 - after) / (1 - here) * beta) * z

    with jax.enable_x64(True):
        ours = S.sample(denoise, S.ddpm(), grid, x, keys)
        np.testing.assert_allclose(ours, _printed(grid, denoise, x, keys, step), atol=1e-6)


def test_euler_is_a_step_of_the_ode_in_sigma_over_alpha(trajectory):
    """y = x / alpha, s = sigma / alpha, y' = y + (s' - s)(y - x0) / s (Karras et al. 2022)."""
    grid, denoise, x, keys = trajectory
    s, alpha = np.asarray(grid.sigma / grid.alpha), np.asarray(grid.alpha)

    def step(x, x0, z, i):
        y = x / alpha[i]
        return alpha[i + 1] * (y + (s[i + 1] - s[i]) * (y - x0) / s[i])

    with jax.enable_x64(True):
        ours = S.sample(denoise, S.euler(), grid, x, keys)
        np.testing.assert_allclose(ours, _printed(grid, denoise, x, keys, step), atol=1e-6)


def test_euler_a_is_the_ancestral_step_of_k_diffusion(trajectory):
    grid, denoise, x, keys = trajectory
    s, alpha = np.asarray(grid.sigma / grid.alpha), np.asarray(grid.alpha)

    def step(x, x0, z, i):
        y, a, b = x / alpha[i], s[i], s[i + 1]
        up = min(b, 0.8 * np.sqrt(b**2 * (a**2 - b**2) / a**2))
        down = np.sqrt(b**2 - up**2)
        return alpha[i + 1] * (y + (down - a) * (y - x0) / a + 0.9 * up * z)

    with jax.enable_x64(True):
        ours = S.sample(denoise, S.SAMPLERS["euler_a"](0.8, 0.9), grid, x, keys)
        np.testing.assert_allclose(ours, _printed(grid, denoise, x, keys, step), atol=1e-6)


def test_dpmpp_sde_is_that_of_k_diffusion(trajectory, monkeypatch):
    """sample_dpmpp_sde, r = 1/2, with the same two noises."""
    from jaxdiff.diffusion import samplers_sde

    grid, denoise, x, keys = trajectory
    s, alpha = np.asarray(grid.sigma / grid.alpha), np.asarray(grid.alpha)

    def noises(keys, shape, r):
        return normal_each(keys, shape), -normal_each(keys, shape)

    monkeypatch.setattr(samplers_sde, "_brownian", noises)

    def ancestral(a, b, eta):
        up = min(b, eta * np.sqrt(b**2 * (a**2 - b**2) / a**2))
        return np.sqrt(b**2 - up**2), up

    def step(x, x0, z, i, eta=0.7):
        y, a, b = x / alpha[i], s[i], s[i + 1]
        if b == 0:
            return x0
        middle = np.sqrt(a * b)
        down, up = ancestral(a, middle, eta)
        y2 = down / a * y + (1 - down / a) * x0 + up * z
        t = jnp.full(x.shape[0], grid.t_mid[i])
        x0 = np.asarray(denoise(jnp.asarray(y2 * float(grid.alpha_mid[i])), t))
        down, up = ancestral(a, b, eta)
        return alpha[i + 1] * (down / a * y + (1 - down / a) * x0 - up * z)

    with jax.enable_x64(True):
        ours = S.sample(denoise, S.SAMPLERS["dpmpp_sde"](0.7), grid, x, keys)
        np.testing.assert_allclose(ours, _printed(grid, denoise, x, keys, step), atol=1e-6)


def test_dpmpp_2m_sde_is_that_of_k_diffusion(trajectory):
    """sample_dpmpp_2m_sde, midpoint."""
    grid, denoise, x, keys = trajectory
    s, alpha, old = np.asarray(grid.sigma / grid.alpha), np.asarray(grid.alpha), {}

    def step(x, x0, z, i, eta=0.7):
        y, a, b = x / alpha[i], s[i], s[i + 1]
        if b == 0:
            return x0
        h = np.log(a / b)
        out = b / a * np.exp(-eta * h) * y - np.expm1(-h - eta * h) * x0
        if old:
            out = out - 0.5 * np.expm1(-h - eta * h) * (h / old["h"]) * (x0 - old["x0"])
        old.update(h=h, x0=x0)
        return alpha[i + 1] * (out + z * b * np.sqrt(-np.expm1(-2 * eta * h)))

    with jax.enable_x64(True):
        ours = S.sample(denoise, S.SAMPLERS["dpmpp_2m_sde"](0.7), grid, x, keys)
        np.testing.assert_allclose(ours, _printed(grid, denoise, x, keys, step), atol=1e-6)
