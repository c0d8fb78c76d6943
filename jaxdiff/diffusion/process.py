r"""The forward process: alpha(t), sigma(t) and all that follows from them.

    x_t = alpha(t) x0 + sigma(t) eps,    eps ~ N(0, I),    t in [0, 1], 0 clean          (1)
    log_snr(t) = 2 log(alpha / sigma),   lam = log_snr / 2                               (2)

(Kingma et al. 2021, "Variational Diffusion Models", eq. 1 and 2, in this notation.)

Every function of t follows the type it is given: numpy (or a Python float) is computed by numpy in
float64, which is how grids are made; a jax array stays in its own precision, float32 at run time.

Axis legend: B images, N discrete noise levels.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff.diffusion.arrays import Level, expand, namespace
from jaxdiff.diffusion.schedules import VPTable
from jaxdiff.diffusion.schedules import betas_cosine as betas_cosine
from jaxdiff.diffusion.schedules import betas_linear as betas_linear
from jaxdiff.diffusion.schedules import betas_scaled_linear as betas_scaled_linear
from jaxdiff.diffusion.schedules import zero_terminal_snr as zero_terminal_snr
from jaxdiff.errors import UserError


class Process(NamedTuple):
    """A forward process; `t` is 0 for data and 1 for noise, and every callable is elementwise."""

    alpha: Callable[[Level], Level]
    """t -> the factor of the data."""
    sigma: Callable[[Level], Level]
    """t -> the factor of the noise."""
    timestep: Callable[[Level], Level]
    """t -> the number that a network of this process is given."""
    inverse: Callable[[Level], Level]
    """log-SNR -> t, clipped to [0, 1]; see `t_of_log_snr`."""
    shifted: Callable[[float], "Process"]
    """factor -> the same process with sigma / alpha multiplied by it; see `resolution_shift`."""
    prior_std: float
    """Standard deviation of x at t = 1."""
    num_levels: int = 1000
    """N: the level k of `leading`, `trailing` and `linspace` grids is t = k / N."""
    discrete: bool = False
    """Whether grids of those kinds keep to these levels, on which alone the network was trained."""


# ---------------------------------------------------------------- what follows from alpha and sigma


def log_snr(process: Process, t: Level) -> Level:
    """log(alpha^2 / sigma^2), eq. (2); +inf where sigma = 0 and -inf where alpha = 0."""
    xp, t = namespace(t)
    alpha, sigma = process.alpha(t), process.sigma(t)
    log_alpha = xp.where(alpha > 0, xp.log(xp.where(alpha > 0, alpha, 1.0)), -xp.inf)
    log_sigma = xp.where(sigma > 0, xp.log(xp.where(sigma > 0, sigma, 1.0)), -xp.inf)
    return 2.0 * (log_alpha - log_sigma)


def lam(process: Process, t: Level) -> Level:
    """log(alpha / sigma), the half log-SNR of Lu et al. 2022 (DPM-Solver, section 2)."""
    return 0.5 * log_snr(process, t)


def t_of_log_snr(process: Process, log_snr: Level) -> Level:
    """The t at which the process has this log-SNR, clipped to [0, 1] where it never has."""
    return process.inverse(log_snr)


def q_sample(
    process: Process, x0: Float[Array, "B ..."], eps: Float[Array, "B ..."], t: Float[Array, " B"]
) -> Float[Array, "B ..."]:
    """Draw x_t given x0: alpha(t) x0 + sigma(t) eps, eq. (1)."""
    return expand(process.alpha(t), x0) * x0 + expand(process.sigma(t), x0) * eps


def rates(process: Process, t: Array) -> tuple[Array, Array]:
    """The time derivatives (alpha'(t), sigma'(t)), any shape, by forward differentiation."""
    one = jnp.ones_like(t)
    return jax.jvp(process.alpha, (t,), (one,))[1], jax.jvp(process.sigma, (t,), (one,))[1]


def velocity(
    process: Process, x0: Float[Array, "B ..."], eps: Float[Array, "B ..."], t: Float[Array, " B"]
) -> Float[Array, "B ..."]:
    """dx/dt of the probability-flow ODE: alpha'(t) x0 + sigma'(t) eps.

    Song et al. 2021 (score SDE), eq. 13, with the score -eps / sigma: f x - g^2 score / 2 has
    f = alpha' / alpha and g^2 = 2 sigma sigma' - 2 f sigma^2, and with x = alpha x0 + sigma eps the
    division by alpha cancels. So this form holds at alpha = 0; for `flow` it is eps - x0.
    """
    d_alpha, d_sigma = rates(process, t)
    return expand(d_alpha, x0) * x0 + expand(d_sigma, x0) * eps


def drift_and_diffusion(process: Process, t: Array) -> tuple[Array, Array]:
    """The f and g^2, any shape, of the forward SDE dx = f(t) x dt + g(t) dw.

    f = alpha' / alpha and g^2 = (sigma^2)' - 2 f sigma^2 (Lu et al. 2022, DPM-Solver, section 2.1).
    At alpha = 0 f is -inf.
    """
    alpha, sigma = process.alpha(t), process.sigma(t)
    d_alpha, d_sigma = rates(process, t)
    positive = alpha > 0
    f = jnp.where(positive, d_alpha / jnp.where(positive, alpha, 1.0), -jnp.inf)
    return f, 2.0 * sigma * d_sigma - 2.0 * f * sigma**2


def resolution_shift(process: Process, shift: float) -> Process:
    """Multiply sigma / alpha by `shift`: log_snr - 2 log(shift) at every t.

    Hoogeboom et al. 2023 (simple diffusion), section 3.1, with shift = d / 64 for side d; for
    `flow` it is the t-shift of Esser et al. 2024 (SD3), eq. 23, with shift = sqrt(m / n) for m
    pixels instead of n.
    """
    return process.shifted(shift)


# ---------------------------------------------------------------------------------------- processes


def vp(betas: np.ndarray, shift: float = 1.0) -> Process:
    """Variance preserving (alpha^2 + sigma^2 = 1) through N discrete levels.

    Level i has alpha_bar = prod(1 - beta_0..i) (Ho et al. 2020, eq. 4) and sits at
    t = (i + 1) / N; t = 0 is clean data, alpha = 1. The values at these knots are exact. Between
    two knots log-SNR is linear in t, as k-diffusion and diffusers interpolate; in the first
    interval, and in the last one under zero terminal SNR, where log-SNR is infinite, the angle
    atan(sigma / alpha) is linear.

    Args:
      betas: [N] in (0, 1); the last may be 1 (zero terminal SNR).
      shift: factor on sigma / alpha; see `resolution_shift`.

    Raises:
      UserError: betas are not such a list, or the shift is not positive.
    """
    _positive("shift", shift)
    table = VPTable(np.asarray(betas, np.float64), shift)
    return Process(
        alpha=lambda t: table.levels(t)[0],
        sigma=lambda t: table.levels(t)[1],
        timestep=table.timestep,
        inverse=table.inverse,
        shifted=lambda factor: vp(betas, shift * factor),
        prior_std=1.0,
        num_levels=table.n,
        discrete=True,
    )


def ve(sigma_min: float = 0.01, sigma_max: float = 50.0) -> Process:
    """Variance exploding: alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^t.

    Song et al. 2021 (score SDE), eq. 30. At t = 0 sigma is sigma_min, not 0. The network is given
    ln(sigma) / 4 (Karras et al. 2022, table 1).
    """
    _positive("sigma_min", sigma_min)
    _positive("sigma_max - sigma_min", sigma_max - sigma_min)
    ratio = np.log(sigma_max / sigma_min)
    return _exploding(
        lambda xp, t: sigma_min * xp.exp(t * ratio),
        lambda xp, log_sigma: (log_sigma - np.log(sigma_min)) / ratio,
        lambda factor: ve(sigma_min * factor, sigma_max * factor),
        sigma_max,
    )


def edm(sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Process:
    """Variance exploding with sigma^(1/rho) linear in t (Karras et al. 2022, eq. 5)."""
    _positive("sigma_min", sigma_min)
    _positive("sigma_max - sigma_min", sigma_max - sigma_min)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return _exploding(
        lambda xp, t: (low + t * (high - low)) ** rho,
        lambda xp, log_sigma: (xp.exp(log_sigma / rho) - low) / (high - low),
        lambda factor: edm(sigma_min * factor, sigma_max * factor, rho),
        sigma_max,
    )


def _exploding(
    sigma_of: Callable, t_of: Callable, shifted: Callable[[float], Process], sigma_max: float
) -> Process:
    def alpha(t: Level) -> Level:
        xp, t = namespace(t)
        return xp.ones_like(t)

    def sigma(t: Level) -> Level:
        return sigma_of(*namespace(t))

    def timestep(t: Level) -> Level:
        xp, t = namespace(t)
        return 0.25 * xp.log(sigma_of(xp, t))

    def inverse(log_snr: Level) -> Level:
        xp, log_snr = namespace(log_snr)
        return xp.clip(t_of(xp, -log_snr / 2), 0.0, 1.0)

    return Process(alpha, sigma, timestep, inverse, shifted, float(sigma_max))


def flow(shift: float = 1.0) -> Process:
    """Rectified flow: alpha = 1 - t', sigma = t', t' = shift t / (1 + (shift - 1) t).

    Liu et al. 2023, eq. 1, with data at 0; the shift is Esser et al. 2024 (SD3), eq. 23. The
    network is given 1000 t'. alpha is not computed as 1 - t', which would cancel near 1.

    Raises:
      UserError: the shift is not positive.
    """
    _positive("shift", shift)

    def alpha(t: Level) -> Level:
        _, t = namespace(t)
        return (1 - t) / (1 + (shift - 1) * t)

    def sigma(t: Level) -> Level:
        _, t = namespace(t)
        return shift * t / (1 + (shift - 1) * t)

    def inverse(log_snr: Level) -> Level:  # sigma / alpha = shift t / (1 - t) = exp(-log_snr / 2)
        xp, log_snr = namespace(log_snr)
        return 0.5 * (1 - xp.tanh(0.5 * (0.5 * log_snr + np.log(shift))))

    return Process(
        alpha, sigma, lambda t: 1000 * sigma(t), inverse, lambda factor: flow(shift * factor), 1.0
    )


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise UserError(f"{name} of the noise process is {value}; give a positive number")
