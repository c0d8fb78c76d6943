"""Discrete variance-preserving schedules: betas, and the table that a process reads between them.

Computed by numpy in float64. Axis legend: N noise levels.
"""

from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.diffusion.arrays import Level, namespace
from jaxdiff.errors import UserError


def betas_linear(n: int = 1000, start: float = 1e-4, end: float = 0.02) -> np.ndarray:
    """Betas [n] evenly spaced (Ho et al. 2020, section 4)."""
    return np.linspace(start, end, n, dtype=np.float64)


def betas_scaled_linear(n: int = 1000, start: float = 0.00085, end: float = 0.012) -> np.ndarray:
    """Betas [n] whose square roots are evenly spaced (Rombach et al. 2022, Stable Diffusion)."""
    return np.linspace(start**0.5, end**0.5, n, dtype=np.float64) ** 2


def betas_cosine(n: int = 1000, offset: float = 0.008, largest: float = 0.999) -> np.ndarray:
    """Betas [n] with alpha_bar = cos^2, clipped at `largest` (Nichol & Dhariwal 2021, eq. 17)."""
    u = np.arange(n + 1, dtype=np.float64) / n
    alpha_bar = np.cos((u + offset) / (1 + offset) * np.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], largest)


def zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    """Rescale betas [n] so that alpha_bar ends at exactly 0 (Lin et al. 2023, algorithm 1).

    sqrt(alpha_bar) is moved down by its last value and stretched back to its first.
    """
    root = np.sqrt(np.cumprod(1 - np.asarray(betas, np.float64)))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alpha_bar = root**2
    return 1 - alpha_bar / np.concatenate([[1.0], alpha_bar[:-1]])


class VPTable:
    """The knots of `vp`: half log-SNR where finite, and both angles of (alpha, sigma)."""

    def __init__(self, betas: np.ndarray, shift: float) -> None:
        """Tabulate the angles and log-SNRs of betas [N], with sigma / alpha times `shift`."""
        if betas.ndim != 1 or not np.all((betas > 0) & (betas <= 1)) or np.any(betas[:-1] == 1):
            raise UserError("betas must be a list of numbers in (0, 1), the last at most 1")
        with np.errstate(divide="ignore"):
            log_alpha_bar = np.cumsum(np.log1p(-betas))
        alpha = np.exp(0.5 * log_alpha_bar)
        sigma = shift * np.sqrt(-np.expm1(log_alpha_bar))  # 1 - alpha_bar without cancellation
        self.n = len(betas)
        self.phi = np.concatenate([[0.0], np.arctan2(sigma, alpha)])  # sigma = sin(phi)
        self.psi = np.concatenate([[np.pi / 2], np.arctan2(alpha, sigma)])  # alpha = sin(psi)
        finite = np.concatenate([[False], alpha > 0])
        self.first, self.last = 1, int(np.flatnonzero(finite)[-1])  # knots with finite log-SNR
        self.lam = np.zeros(self.n + 1)
        self.lam[finite] = np.log(alpha[finite[1:]] / sigma[finite[1:]])

    def _position(self, xp: ModuleType, t: Level) -> Level:
        """T * N, snapped to a knot that it misses only by rounding."""
        u = xp.clip(t, 0.0, 1.0) * self.n
        if xp is np:
            return u
        miss = jax.lax.stop_gradient(jnp.round(u) - u)  # keeps du/dt = N on the knots
        return jnp.where(jnp.abs(miss) <= 2 * jnp.finfo(u.dtype).eps * u, u + miss, u)

    def levels(self, t: Level) -> tuple[Level, Level]:
        """(alpha, sigma) at t."""
        xp, t = namespace(t)
        u = self._position(xp, t)
        i = xp.clip(xp.floor(u), 0, self.n - 1).astype(np.int32)
        f = u - i
        lam, phi, psi = (
            (1 - f) * xp.asarray(k, t.dtype)[i] + f * xp.asarray(k, t.dtype)[i + 1]
            for k in (self.lam, self.phi, self.psi)
        )
        singular = (i < self.first) | (i >= self.last)
        safe = xp.where(singular, 0.0, lam)
        alpha = xp.where(singular, xp.sin(psi), 1 / xp.sqrt(1 + xp.exp(-2 * safe)))
        sigma = xp.where(singular, xp.sin(phi), 1 / xp.sqrt(1 + xp.exp(2 * safe)))
        return alpha, sigma

    def timestep(self, t: Level) -> Level:
        """The index i of the level, t N - 1; 0 before the first."""
        xp, t = namespace(t)
        return xp.maximum(self._position(xp, t) - 1, 0.0)

    def inverse(self, log_snr: Level) -> Level:
        """The t of a log-SNR, clipped to [0, 1]."""
        xp, half = namespace(log_snr)
        half = half / 2
        cast = lambda knots: xp.asarray(knots, half.dtype)  # noqa: E731
        knots = np.arange(self.first, self.last + 1)[::-1]
        u = xp.interp(half, cast(self.lam[knots]), cast(knots))
        begin = xp.arctan(xp.exp(-half)) / self.phi[1]  # angle linear in the first interval
        u = xp.where(half > self.lam[1], begin, u)
        if self.last < self.n:  # zero terminal SNR: and in the last
            end = self.n - xp.arctan(xp.exp(half)) / self.psi[self.last]
            u = xp.where(half < self.lam[self.last], end, u)
        return u / self.n
