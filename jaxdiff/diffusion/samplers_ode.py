r"""Deterministic samplers of higher order, as a first-order step plus a correction in x0.

Notation of stepping.py: primes are the level to which a step goes, r = s' / s = exp(-h),
s = sigma / alpha. Each correction is the printed method with x / alpha and s eliminated, so that no
process and no level divides by alpha = 0.

Axis legend: B images, P past evaluations; the rest of x is any shape.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxdiff.diffusion.arrays import divide
from jaxdiff.diffusion.grids import Grid
from jaxdiff.diffusion.prediction import Denoise
from jaxdiff.diffusion.samplers_sde import multistep
from jaxdiff.diffusion.stepping import (
    Point,
    Sampler,
    State,
    at_least_float32,
    call,
    eps_at,
    first_order,
    has_data,
    init,
    log_step,
    midpoint,
    point,
    ratio,
    step_ratio,
)
from jaxdiff.errors import UserError


def heun() -> Sampler:
    """Heun's second order in s: the trapezoidal rule, two calls a step.

        p  = alpha' x0 + sigma' eps                            (Euler)
        x' = p + alpha' (1/r - 1) / 2 (x0_p - x0),     x0_p = denoise(p, t')

    Karras et al. 2022, algorithm 1: y' = y + (s' - s)(d + d') / 2 in y = x / alpha, and with
    p = alpha' x0 + sigma' eps the slopes differ by d' - d = (x0 - x0_p) / s'. Euler and one call at
    the last step, to sigma = 0, and from a level without data (`has_data`).
    """

    def step(denoise: Denoise, grid: Grid, i: Array, state: State, keys: Key[Array, " B"]) -> State:
        a, b = point(grid, i), point(grid, i + 1)
        x0 = call(denoise, state.x, a)
        predicted = first_order(state.x, x0, a, b)
        r, usable = ratio(a, b), _second_order(a, b)
        weight = jnp.where(usable, b.alpha * (1 / jnp.where(usable, r, 1.0) - 1) / 2, 0.0)
        x0_end = jax.lax.cond(usable, lambda: call(denoise, predicted, b), lambda: x0)
        return State(predicted + weight * (x0_end - x0), x0)

    return Sampler(init, step)


def dpm_2() -> Sampler:
    """DPM-Solver-2 in s: the midpoint rule through s_m = sqrt(s s'), two calls a step.

        m  = alpha_m x0 + sigma_m eps                          (Euler to the middle of log-SNR)
        x0_m = denoise(m, t_m)
        x' = alpha' x0 + sigma' eps + alpha' (1 - r) / sqrt(r) (x0_m - x0)

    Lu et al. 2022 (DPM-Solver), algorithm 1 with r_1 = 1/2, in k-diffusion's form (sample_dpm_2),
    which integrates in s: y' = y + (s' - s) d_m with d_m - d = (x0 - x0_m) / s_m. Euler and one
    call at the last step, to sigma = 0, and from a level without data (`has_data`).
    """

    def step(denoise: Denoise, grid: Grid, i: Array, state: State, keys: Key[Array, " B"]) -> State:
        a, m, b = point(grid, i), midpoint(grid, i), point(grid, i + 1)
        x0 = call(denoise, state.x, a)
        middle = first_order(state.x, x0, a, m)
        usable = _second_order(a, b)
        r = jnp.where(usable, ratio(a, b), 1.0)
        x0_mid = jax.lax.cond(usable, lambda: call(denoise, middle, m), lambda: x0)
        correction = b.alpha * (1 - r) / jnp.sqrt(r) * (x0_mid - x0)
        return State(first_order(state.x, x0, a, b) + correction, x0)

    return Sampler(init, step)


def _second_order(a: Point, b: Point) -> Array:
    return (b.sigma > 0) & has_data(a)


# ------------------------------------------------------------------------------------ lms


class LMSState(NamedTuple):
    """The sample, the last x0 and the eps of the P = order - 1 steps before, latest first."""

    x: Array
    x0: Array
    past: Array


def lms(order: int = 4) -> Sampler:
    """Linear multistep in s, Adams-Bashforth on uneven levels.

        y' = y + sum_j c_j eps_(i-j)
        c_j = int_s^s' prod_(k != j) (u - s_(i-k)) / (s_(i-j) - s_(i-k)) du

    k-diffusion's sample_lms; Hairer, Norsett & Wanner 1993, section III.5. As the c_j add up to
    s' - s, it is x' = alpha' x0 + sigma' eps_i + alpha' sum_(j > 0) c_j (eps_(i-j) - eps_i). The
    integrals, of polynomials of degree order - 1, are exact by Gauss-Legendre on ceil(order / 2)
    points. The order grows from 1 over the first steps, whose error shows only where x0 already
    moves at the first level; levels without data (`has_data`) are left out.

    Raises:
      UserError: the order is not 1 to 8.
    """
    if not 1 <= order <= 8:
        raise UserError(f"order of lms is {order}; give 1 to 8")
    nodes, weights = np.polynomial.legendre.leggauss(-(-order // 2))

    def start(x: Float[Array, "B ..."], grid: Grid) -> LMSState:
        x = at_least_float32(x)
        return LMSState(x, jnp.zeros_like(x), jnp.zeros((order - 1, *x.shape), x.dtype))

    def step(
        denoise: Denoise, grid: Grid, i: Array, state: LMSState, keys: Key[Array, " B"]
    ) -> LMSState:
        a, b = point(grid, i), point(grid, i + 1)
        x0 = call(denoise, state.x, a)
        eps = eps_at(state.x, x0, a)
        c = _lms_coefficients(grid, i, order, nodes, weights)
        correction = b.alpha * jnp.tensordot(c[1:], state.past - eps, axes=1)
        past = jnp.concatenate([eps[None], state.past])[: order - 1]
        return LMSState(first_order(state.x, x0, a, b) + correction, x0, past)

    return Sampler(start, step)


def _lms_coefficients(
    grid: Grid, i: Array, order: int, nodes: np.ndarray, weights: np.ndarray
) -> Array:
    """c_0 .. c_(order-1) of the step from level i; 0 for a level that is absent or without data."""
    steps = i - jnp.arange(order)
    levels = point(grid, steps)
    usable = (steps >= 0) & has_data(levels)
    s = divide(levels.sigma, levels.alpha)
    end = point(grid, i + 1)
    half, centre = (end.sigma / end.alpha - s[0]) / 2, (end.sigma / end.alpha + s[0]) / 2
    u = centre + half * jnp.asarray(nodes, s.dtype)
    pairs = usable[:, None] & usable & ~jnp.eye(order, dtype=bool)  # [j, k]
    apart = jnp.where(pairs, s[:, None] - s, 1.0)
    factors = jnp.where(pairs, (u[:, None, None] - s) / apart, 1.0)
    basis = jnp.prod(factors, axis=-1)  # [node, j]
    c = half * jnp.asarray(weights, s.dtype) @ basis
    return jnp.where(usable & usable[0], c, 0.0)


# ---------------------------------------------------------------------------------- unipc


class UniPCState(NamedTuple):
    """The predicted sample, the last two x0, and the corrected sample one level before."""

    x: Array
    x0: Array
    x0_before: Array
    corrected: Array


def unipc() -> Sampler:
    """UniPC-2 with B(h) = e^h - 1 on x0: one call a step, third order by its corrector.

    Predictor (UniP-2): the update of DPM-Solver++(2M). Corrector (UniC-2), once x0 at the predicted
    x_i is known, from the corrected x_(i-1), with k = h / h_before and L(h) = coth(h/2) - 2/h:

        x_i = (sigma_i/sigma) x + alpha_i (1 - r) (x0 + p (x0 - x0_before) + q (x0_i - x0))
        q = (1 + L) / 2 - (L / h) k / (1 + k),     p = (L / h) k^2 / (1 + k)

    Zhao et al. 2023 (UniPC), algorithms 1 and 2: their system R rho = b of size 2 with r_1 = -1/k,
    solved by hand; b_1 = (1 + L) / 2 and b_1 - b_2 = L / h. The first corrector has order 1:
    q = 1/2, p = 0. The last step, to sigma = 0, has order 1 and is not corrected.
    """

    def start(x: Float[Array, "B ..."], grid: Grid) -> UniPCState:
        x = at_least_float32(x)
        zero = jnp.zeros_like(x)
        return UniPCState(x, zero, zero, zero)

    def step(
        denoise: Denoise, grid: Grid, i: Array, state: UniPCState, keys: Key[Array, " B"]
    ) -> UniPCState:
        before, a, b = point(grid, i - 1), point(grid, i), point(grid, i + 1)
        x0 = call(denoise, state.x, a)
        x = jnp.where(i > 0, _unic(grid, i, state, x0), state.x)
        k = step_ratio(ratio(a, b), ratio(before, a))
        return UniPCState(multistep(x, x0, state.x0, a, b, k), x0, state.x0, x)

    return Sampler(start, step)


def _unic(grid: Grid, i: Array, state: UniPCState, x0: Array) -> Array:
    """Correct the sample at level i, now that x0 there is known."""
    oldest, old, here = point(grid, i - 2), point(grid, i - 1), point(grid, i)
    r = ratio(old, here)
    k = step_ratio(r, ratio(oldest, old))
    langevin, langevin_over_h = _langevin(log_step(r))
    first = i == 1
    p = jnp.where(first, 0.0, langevin_over_h * k**2 / (1 + k))
    q = jnp.where(first, 0.5, (1 + langevin) / 2 - langevin_over_h * k / (1 + k))
    d = state.x0 + p * (state.x0 - state.x0_before) + q * (x0 - state.x0)
    return (here.sigma / old.sigma) * state.corrected + here.alpha * (1 - r) * d


def _langevin(h: Array) -> tuple[Array, Array]:
    """L = coth(h/2) - 2/h and L / h; their series below h = 1, where the difference cancels."""
    small = h < 1
    square = jnp.where(small, h, 0.0) ** 2
    over = 1 / 6 - square * (
        1 / 360 - square * (1 / 15120 - square * (1 / 604800 - square / 23950080))
    )
    large = jnp.where(small, 1.0, h)
    exact = 1 / jnp.tanh(large / 2) - 2 / large
    return jnp.where(small, over * h, exact), jnp.where(small, over, exact / large)
