r"""What every sampler is made of: its contract, and the one first-order step between two levels.

With eps = (x - alpha x0) / sigma, the probability-flow ODE with x0 held constant has the solution

    x' = alpha' x0 + sigma' eps               (DDIM: Song et al. 2021, eq. 12, sigma_t = 0)      (1)

which divides by sigma alone, and so holds at alpha = 0; no sampler starts a step at sigma = 0. In
k-diffusion's variables y = x / alpha, s = sigma / alpha the same line is Euler's step
y' = y + (s' - s) eps. Higher orders are written as (1) plus a correction in x0, with

    r = s' / s = exp(-h),    h = lam' - lam                                                      (2)

and r = 0 at both singular ends: a step from alpha = 0 and the last step, to sigma = 0.

Axis legend: B images, N steps; the rest of x is any shape.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.diffusion.grids import Grid
from jaxdiff.diffusion.prediction import Denoise


class Sampler(NamedTuple):
    """A sampling method as two pure functions."""

    init: Callable
    """(x, grid) -> state; `state.x` is the current sample."""
    step: Callable
    """(denoise, grid, i, state, keys) -> state after step i; keys [B] serve this step alone."""


class State(NamedTuple):
    """What a one-step method carries."""

    x: Array
    """The sample [B ...]."""
    x0: Array
    """The last prediction of the clean image [B ...]."""


class Point(NamedTuple):
    """One level of a grid: three scalars."""

    t: Array
    alpha: Array
    sigma: Array


def init(x: Float[Array, "B ..."], grid: Grid) -> State:
    """Start from x in float32 or better."""
    x = at_least_float32(x)
    return State(x, jnp.zeros_like(x))


def at_least_float32(x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """The sample in float32, unless it is more precise."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def point(grid: Grid, i: Array) -> Point:
    """Level i, any shape of it, clamped to the grid at its noisy end."""
    i = jnp.maximum(i, 0)
    return Point(grid.t[i], grid.alpha[i], grid.sigma[i])


def midpoint(grid: Grid, i: Array) -> Point:
    """The level, any shape of i, halfway in log-SNR between levels i and i + 1."""
    return Point(grid.t_mid[i], grid.alpha_mid[i], grid.sigma_mid[i])


def call(denoise: Denoise, x: Float[Array, "B ..."], at: Point) -> Float[Array, "B ..."]:
    """x0 at one level for the whole batch."""
    return denoise(x, jnp.full(x.shape[:1], at.t, x.dtype))


def eps_at(x: Array, x0: Array, at: Point) -> Array:
    """The eps [B ...]: (x - alpha x0) / sigma, and sigma > 0 wherever a step starts."""
    return (x - at.alpha * x0) / jnp.where(at.sigma > 0, at.sigma, 1.0)


def first_order(x: Array, x0: Array, a: Point, b: Point, sigma: Array | None = None) -> Array:
    """The sample [B ...] at level b from level a, eq. (1); `sigma`, if given, replaces b's."""
    return b.alpha * x0 + (b.sigma if sigma is None else sigma) * eps_at(x, x0, a)


def x0_between(x: Array, x_b: Array, a: Point, b: Point) -> Array:
    """The x0 [B ...] by which eq. (1) leads from x at level a to x_b at level b, less noisy."""
    kept = b.sigma / a.sigma
    return (x_b - kept * x) / (b.alpha - kept * a.alpha)


def ratio(a: Point, b: Point) -> Array:
    """The r = s_b / s_a of eq. (2), in [0, 1], any shape; 0 where alpha_a = 0 or sigma_b = 0."""
    below = a.sigma * b.alpha
    return jnp.where(below > 0, b.sigma * a.alpha / jnp.where(below > 0, below, 1.0), 0.0)


def log_step(r: Array) -> Array:
    """The h = -log r of eq. (2), any shape; +inf where r = 0."""
    return jnp.where(r > 0, -jnp.log(jnp.where(r > 0, r, 1.0)), jnp.inf)


def step_ratio(r: Array, r_before: Array) -> Array:
    """The h / h_before of two neighbouring steps, any shape; 0 where it is undefined.

    0 turns a second order off. Undefined are: no step before (r_before = 1), a step before that
    came from alpha = 0, and the last step, to sigma = 0.
    """
    usable = (r > 0) & (r_before > 0) & (r_before < 1)
    h, before = jnp.where(usable, r, 0.5), jnp.where(usable, r_before, 0.5)
    return jnp.where(usable, jnp.log(h) / jnp.log(before), 0.0)


def has_data(at: Point) -> Array:
    """Whether alpha / sigma > 1e-3, elementwise.

    From noisier levels (zero or nearly zero terminal SNR) an interpolation in s, whose step
    is then thousands wide, amplifies the error of x0 by as much: such a step stays at first order.
    """
    return at.alpha > 1e-3 * at.sigma
