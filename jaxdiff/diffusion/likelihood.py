r"""Likelihood by the probability-flow ODE.

    dx/dt = alpha'(t) x0(x, t) + sigma'(t) eps(x, t)                                             (1)
    log p(x at t_0) = log N(x at t_n; 0, prior_std^2) + int_(t_0)^(t_n) div (dx/dt) dt           (2)

(1) is `process.velocity`, (2) the instantaneous change of variables: Song et al. 2021 (score SDE),
eq. 13 and 39; Chen et al. 2018. The divergence is exact, or Hutchinson's estimate v . J v with v of
random signs (Grathwohl et al. 2019, FFJORD), one v per image and probe for the whole path.

Singular points: eps divides by sigma, and the path starts at the last level of the grid before
sigma = 0, which the data is taken to be at; alpha = 0 at the noisy end is harmless in (1).

Axis legend: B images, D = H W C numbers in each, K probes.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxdiff.diffusion.grids import Grid
from jaxdiff.diffusion.prediction import Denoise, eps_of_x0
from jaxdiff.diffusion.process import Process, velocity


def log_likelihood(
    denoise: Denoise,
    process: Process,
    grid: Grid,
    x: Float[Array, "B ..."],
    keys: Key[Array, " B"] | None = None,
    *,
    num_probes: int = 1,
) -> Float[Array, " B"]:
    """Log density of each image in nats, by the classical Runge-Kutta method between grid levels.

    Args:
      denoise: (x_t, t) -> x0.
      process: the process of that denoiser.
      grid: levels from noisy to clean; the final one, sigma = 0, is left out.
      x: images, taken to be at the last level before sigma = 0.
      keys: one key per image for the probes; None computes the divergence exactly, with D
        derivatives for each evaluation.
      num_probes: K, how many probes to average.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    probes = _basis(x) if keys is None else _signs(keys, x, num_probes)
    mean = jnp.sum if keys is None else jnp.mean

    def rate(x: Array, t: Array) -> tuple[Array, Array]:
        slope, along = jax.linearize(lambda x: _flow(denoise, process, x, t), x)
        return slope, mean(jax.vmap(lambda v: _inner(v, along(v)))(probes), axis=0)

    def step(state: tuple, ends: tuple) -> tuple:
        return _runge_kutta(rate, state, *ends), None

    t = grid.t[:-1][::-1]  # clean to noisy
    (x, gained), _ = jax.lax.scan(step, (x, jnp.zeros(x.shape[0], x.dtype)), (t[:-1], t[1:]))
    size = math.prod(x.shape[1:])
    prior = -0.5 * _inner(x, x) / process.prior_std**2
    return prior - size * (0.5 * math.log(2 * math.pi) + math.log(process.prior_std)) + gained


def bits_per_dim(
    log_density: Float[Array, " B"], size: int, levels_per_unit: float = 127.5
) -> Float[Array, " B"]:
    """Bits per number from nats per image: -log p / (D ln 2) + log2(levels per unit of x).

    Args:
      log_density: from `log_likelihood`.
      size: D.
      levels_per_unit: 127.5 where [-1, 1] holds 256 levels (x dequantized by uniform noise of one
        level).
    """
    return -log_density / (size * math.log(2)) + math.log2(levels_per_unit)


def _flow(denoise: Denoise, process: Process, x: Array, t: Array) -> Array:
    """Eq. (1)."""
    t = jnp.full(x.shape[:1], t, x.dtype)
    x0 = denoise(x, t)
    return velocity(process, x0, eps_of_x0(x0, x, process.alpha(t), process.sigma(t)), t)


def _runge_kutta(rate: Callable, state: tuple, a: Array, b: Array) -> tuple:
    """One step of the classical fourth-order method from t = a to b.

    The stages are scanned, so that a network is compiled once and not four times.
    """
    h = b - a
    move = lambda y, by, slope: jax.tree.map(lambda s, d: s + by * d, y, slope)  # noqa: E731

    def stage(carry: tuple, place: tuple) -> tuple:
        (slope, total), (share, weight) = carry, place
        slope = rate(move(state, h * share, slope)[0], a + h * share)
        return (slope, move(total, weight, slope)), None

    nothing = jax.tree.map(jnp.zeros_like, state)
    shares, weights = jnp.array([0.0, 0.5, 0.5, 1.0]), jnp.array([1.0, 2.0, 2.0, 1.0]) / 6
    (_, total), _ = jax.lax.scan(stage, (nothing, nothing), (shares, weights))
    return move(state, h, total)


def _inner(a: Array, b: Array) -> Array:
    """Inner product of each image [B]."""
    return jnp.sum(a * b, axis=tuple(range(1, a.ndim)))


def _signs(keys: Key[Array, " B"], x: Array, count: int) -> Array:
    """Random signs [K B ...], each image's from its own key."""
    draw = jax.vmap(lambda key: jax.random.rademacher(key, (count, *x.shape[1:]), x.dtype))
    return jnp.moveaxis(draw(keys), 1, 0)


def _basis(x: Array) -> Array:
    """The D unit images, each for the whole batch: [D B ...]."""
    size = math.prod(x.shape[1:])
    unit = jnp.eye(size, dtype=x.dtype).reshape(size, 1, *x.shape[1:])
    return jnp.broadcast_to(unit, (size, *x.shape))
