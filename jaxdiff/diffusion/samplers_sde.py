r"""Samplers that add noise, and with eta = 0 their deterministic limits.

Notation of stepping.py: r = s' / s = exp(-h), s = sigma / alpha, and z standard normal from each
image's own key.

Axis legend: B images; the rest of x is any shape.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxdiff.diffusion.grids import Grid
from jaxdiff.diffusion.prediction import Denoise
from jaxdiff.diffusion.stepping import (
    Point,
    Sampler,
    State,
    at_least_float32,
    call,
    first_order,
    init,
    midpoint,
    point,
    ratio,
    step_ratio,
)
from jaxdiff.errors import UserError
from jaxdiff.rng import named_keys, normal_each


def ancestral(eta: float = 1.0, s_noise: float = 1.0) -> Sampler:
    """One update with many names: ddim(eta) = euler_a(eta), ddpm = eta 1, euler = eta 0.

        x' = alpha' x0 + down eps + up z
        up = eta sigma' sqrt(1 - r^2),    down^2 = sigma'^2 - up^2

    Song et al. 2021 (DDIM), eq. 12 and 16: (sigma'/sigma)^2 (1 - alpha^2/alpha'^2) is
    sigma'^2 (1 - r^2) where alpha^2 + sigma^2 = 1. k-diffusion's ancestral step times alpha' is the
    same line, and with eta = 1 it is the posterior of Ho et al. 2020, eq. 6 and 7.

    Args:
      eta: 0 for the probability-flow ODE, 1 for the reverse SDE; up stops at sigma'.
      s_noise: factor on the noise.

    Raises:
      UserError: eta or s_noise is negative.
    """
    _not_negative(eta=eta, s_noise=s_noise)

    def step(denoise: Denoise, grid: Grid, i: Array, state: State, keys: Key[Array, " B"]) -> State:
        a, b = point(grid, i), point(grid, i + 1)
        x0 = call(denoise, state.x, a)
        down, up = _down_and_up(a, b, eta)
        x = first_order(state.x, x0, a, b, down)
        if not _is_zero(eta):
            x = x + s_noise * up * normal_each(keys, x.shape[1:])
        return State(x, x0)

    return Sampler(init, step)


def lcm() -> Sampler:
    """Predict x0 and noise it afresh: x' = alpha' x0 + sigma' z.

    Song et al. 2023 (consistency models), algorithm 1; Luo et al. 2023 (LCM), algorithm 3. It is
    `ancestral` with up = sigma'.
    """

    def step(denoise: Denoise, grid: Grid, i: Array, state: State, keys: Key[Array, " B"]) -> State:
        a, b = point(grid, i), point(grid, i + 1)
        x0 = call(denoise, state.x, a)
        return State(b.alpha * x0 + b.sigma * normal_each(keys, x0.shape[1:]), x0)

    return Sampler(init, step)


class MultistepState(NamedTuple):
    """The sample and the prediction of the step before."""

    x: Array
    x0: Array


def dpmpp_2m_sde(eta: float = 1.0, s_noise: float = 1.0) -> Sampler:
    """SDE-DPM-Solver++(2M), midpoint form; eta = 0 is DPM-Solver++(2M).

        x' = (sigma'/sigma) r^eta x + alpha' (1 - r^(1+eta)) D + sigma' sqrt(1 - r^(2 eta)) z
        D  = x0 + (x0 - x0_before) k / 2,    k = h / h_before

    Lu et al. 2022 (DPM-Solver++), algorithm 2, and its SDE for eta = 1, section 5; k-diffusion
    has the eta between (sample_dpmpp_2m_sde). First order (k = 0) at the first step, at the last
    one, to sigma = 0, and after a step from alpha = 0.

    Raises:
      UserError: eta or s_noise is negative.
    """
    _not_negative(eta=eta, s_noise=s_noise)

    def start(x: Float[Array, "B ..."], grid: Grid) -> MultistepState:
        x = at_least_float32(x)
        return MultistepState(x, jnp.zeros_like(x))

    def step(
        denoise: Denoise, grid: Grid, i: Array, state: MultistepState, keys: Key[Array, " B"]
    ) -> MultistepState:
        a, b = point(grid, i), point(grid, i + 1)
        x0 = call(denoise, state.x, a)
        k = step_ratio(ratio(a, b), ratio(point(grid, i - 1), a))
        x = multistep(state.x, x0, state.x0, a, b, k, eta)
        if not _is_zero(eta):
            std = b.sigma * jnp.sqrt(1 - ratio(a, b) ** (2 * eta))
            x = x + s_noise * std * normal_each(keys, x.shape[1:])
        return MultistepState(x, x0)

    return Sampler(start, step)


def multistep(
    x: Array, x0: Array, before: Array, a: Point, b: Point, k: Array, eta: float = 0.0
) -> Array:
    """The mean [B ...] of `dpmpp_2m_sde` from level a to level b; with eta = 0 also UniP-2 (B2)."""
    r = ratio(a, b)
    d = x0 + 0.5 * k * (x0 - before)
    return (b.sigma / a.sigma) * r**eta * x + b.alpha * (1 - r ** (1 + eta)) * d


def dpmpp_sde(eta: float = 1.0, s_noise: float = 1.0) -> Sampler:
    """SDE-DPM-Solver++(2S) as in k-diffusion: through the midpoint in log-SNR, two calls a step.

        u  = alpha_m x0 + down_m eps(x, x0) + up_m z_m             (ancestral, to the midpoint)
        x' = alpha' x0_m + down' eps(x, x0_m) + up' z,     x0_m = denoise(u, t_m)

    Lu et al. 2022 (DPM-Solver++), section 5, and k-diffusion's sample_dpmpp_sde with r = 1/2. Both
    noises are of one Brownian path W: solving the SDE (eta = 1) for constant x0 gives
    up z = alpha' s'^2 (W(1/s'^2) - W(1/s^2)), so z = c z_m + sqrt(1 - c^2) z_2 with
    c^2 = (s_m^-2 - s^-2) / (s'^-2 - s^-2) = r / (1 + r) at s_m^2 = s s'. (k-diffusion draws the
    path over s, c^2 = 1 / (1 + sqrt(r)); both are 1/2 for small steps.) First order, and one call,
    where the midpoint is undefined: from alpha = 0, and at the last step, to sigma = 0.

    Raises:
      UserError: eta or s_noise is negative.
    """
    _not_negative(eta=eta, s_noise=s_noise)

    def step(denoise: Denoise, grid: Grid, i: Array, state: State, keys: Key[Array, " B"]) -> State:
        a, m, b = point(grid, i), midpoint(grid, i), point(grid, i + 1)
        x0 = call(denoise, state.x, a)
        z_mid, z = _brownian(keys, state.x.shape[1:], ratio(a, b))
        down, up = _down_and_up(a, m, eta)
        u = first_order(state.x, x0, a, m, down) + s_noise * up * z_mid
        x0_mid = jax.lax.cond(ratio(a, b) > 0, lambda: call(denoise, u, m), lambda: x0)
        down, up = _down_and_up(a, b, eta)
        return State(first_order(state.x, x0_mid, a, b, down) + s_noise * up * z, x0)

    return Sampler(init, step)


def _brownian(keys: Key[Array, " B"], shape: tuple[int, ...], r: Array) -> tuple[Array, Array]:
    """Normalised increments (start to middle, start to end) of one path per image."""
    each = jax.vmap(lambda key: named_keys(key, "middle", "end"))(keys)
    first, second = normal_each(each["middle"], shape), normal_each(each["end"], shape)
    c2 = r / (1 + r)
    return first, jnp.sqrt(c2) * first + jnp.sqrt(1 - c2) * second


def _down_and_up(a: Point, b: Point, eta: float) -> tuple[Array, Array]:
    """Noise kept and noise added on the way from level a to level b; down^2 + up^2 = sigma_b^2."""
    share = jnp.minimum(eta**2 * (1 - ratio(a, b) ** 2), 1.0)
    return b.sigma * jnp.sqrt(1 - share), b.sigma * jnp.sqrt(share)


def _is_zero(eta: float) -> bool:
    return isinstance(eta, int | float) and eta == 0


def _not_negative(**values: float) -> None:
    for name, value in values.items():
        if isinstance(value, int | float) and not value >= 0:
            raise UserError(f"{name} of the sampler is {value}; give 0 or more")
