"""Likelihood of a Gaussian, which is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.diffusion import grids as G
from jaxdiff.diffusion import likelihood as Lk
from jaxdiff.rng import image_keys


def _density(x, mean, std):
    return np.sum(-0.5 * ((x - mean) / std) ** 2 - np.log(std * np.sqrt(2 * np.pi)), axis=(1, 2, 3))


@pytest.mark.parametrize("name", ["flow", "zero_snr", "cosine"])
def test_gaussian(name, make_process, make_denoise, gaussian, rng):
    """At the last level before 0 the data is N(alpha mean, alpha^2 std^2 + sigma^2)."""
    process, (mean, std) = make_process(name), gaussian
    grid = G.make_grid(process, "log_snr", 64)
    x = jnp.asarray(mean + std * rng.normal(size=(3, 2, 2, 3)), jnp.float32)
    alpha, sigma = grid.alpha[-2], grid.sigma[-2]
    expected = _density(np.asarray(x), alpha * mean, np.sqrt(alpha**2 * std**2 + sigma**2))
    found = jax.jit(lambda x: Lk.log_likelihood(make_denoise(process), process, grid, x))(x)
    np.testing.assert_allclose(found, expected, atol=0.02)
    bits = Lk.bits_per_dim(found, 12)
    np.testing.assert_allclose(bits, -found / 12 / np.log(2) + np.log2(127.5), rtol=1e-6)


def test_variance_exploding_gaussian(make_process, make_denoise, gaussian, rng):
    """Against the prior's own bias: N(mean, std^2 + 50^2) taken for N(0, 50^2)."""
    process, (mean, std) = make_process("ve"), gaussian
    x = jnp.asarray(mean + std * rng.normal(size=(3, 2, 2, 3)), jnp.float32)
    grid = G.make_grid(process, "log_snr", 64)
    found = Lk.log_likelihood(make_denoise(process), process, grid, x)
    expected = _density(np.asarray(x), mean, np.sqrt(std**2 + 0.01**2))
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_probes_are_unbiased_and_belong_to_the_image(make_process, rng):
    """A denoiser that mixes pixels: Hutchinson's estimate scatters about the exact trace."""
    process = make_process("flow")
    matrix = jnp.asarray(0.3 * np.eye(4) + 0.1 * rng.normal(size=(4, 4)), jnp.float32)
    denoise = lambda x, t: (x.reshape(-1, 4) @ matrix).reshape(x.shape)  # noqa: E731
    grid = G.make_grid(process, "trailing", 8)
    x = jnp.asarray(rng.normal(size=(2, 2, 2, 1)), jnp.float32)
    call = jax.jit(
        lambda x, keys: Lk.log_likelihood(denoise, process, grid, x, keys, num_probes=400)
    )
    exact = Lk.log_likelihood(denoise, process, grid, x)
    estimate = call(x, image_keys([0, 1]))
    np.testing.assert_allclose(estimate, exact, atol=0.1)
    assert np.abs(estimate - exact).max() > 1e-5
    np.testing.assert_allclose(call(x[::-1], image_keys([1, 0]))[::-1], estimate, rtol=1e-5)


def test_no_nan_at_zero_terminal_snr(make_process):
    process = make_process("zero_snr")
    grid = G.make_grid(process, "trailing", 4)
    found = Lk.log_likelihood(lambda x, t: 0.5 * x, process, grid, jnp.ones((1, 2, 2, 1)))
    assert jnp.isfinite(found).all()
