"""Closed-form denoisers: data whose posterior mean is known at every level."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.diffusion import process as P

MEAN, STD = 0.3, 0.5

PROCESSES = {
    "linear": lambda: P.vp(P.betas_linear()),
    "scaled_linear": lambda: P.vp(P.betas_scaled_linear()),
    "cosine": lambda: P.vp(P.betas_cosine()),
    "zero_snr": lambda: P.vp(P.zero_terminal_snr(P.betas_scaled_linear())),
    "ten_levels": lambda: P.vp(P.betas_linear(10, 0.01, 0.9)),
    "ve": lambda: P.ve(0.01, 50.0),
    "edm": P.edm,
    "flow": P.flow,
    "flow_shift": lambda: P.flow(3.0),
    "cosine_shift": lambda: P.resolution_shift(P.vp(P.betas_cosine()), 2.0),
}


def _expand(level, x):
    return level.reshape(level.shape + (1,) * (x.ndim - level.ndim))


def gaussian_mean(xp, x, alpha, sigma):
    """E[x0 | x_t] for x0 ~ N(MEAN, STD^2), independently in every number."""
    return MEAN + alpha * STD**2 * (x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)


def mixture_mean(xp, x, alpha, sigma):
    """E[x0 | x_t] for x0 ~ N(-0.7, 0.3^2) or N(0.7, 0.3^2), each with probability 1/2."""
    centre, variance = 0.7, alpha**2 * 0.3**2 + sigma**2
    sign = xp.tanh(alpha * centre * x / variance)  # P(+) - P(-)
    gain = alpha * 0.3**2 / variance
    return gain * x + (1 - gain * alpha) * centre * sign


@pytest.fixture(params=PROCESSES)
def process(request):
    """Every schedule, one at a time."""
    return PROCESSES[request.param]()


@pytest.fixture(scope="session")
def make_process():
    """Name -> process."""
    return lambda name: PROCESSES[name]()


@pytest.fixture(scope="session")
def posterior_mean():
    """Name -> E[x0 | x_t] as a function of (numpy or jax.numpy, x, alpha, sigma)."""
    return {"gaussian": gaussian_mean, "mixture": mixture_mean}


@pytest.fixture(scope="session")
def make_denoise(posterior_mean):
    """(process, name) -> Denoise."""

    def make(process, name="gaussian"):
        def denoise(x, t):
            alpha, sigma = _expand(process.alpha(t), x), _expand(process.sigma(t), x)
            return posterior_mean[name](jnp, x, alpha, sigma)

        return denoise

    return make


@pytest.fixture(scope="session")
def gaussian():
    """(mean, standard deviation) of the Gaussian data."""
    return MEAN, STD


@pytest.fixture
def rng():
    """A numpy generator."""
    return np.random.default_rng(0)
