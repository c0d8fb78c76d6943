r"""The noise levels that a sampler visits, noisy to clean.

In s = sigma / alpha, k-diffusion's sigma, from s_max down to s_min in n levels, then 0:

    karras        s^(1/rho) evenly spaced            Karras et al. 2022, eq. 5
    exponential   log s evenly spaced                k-diffusion; the same grid as log_snr
    log_snr       log-SNR evenly spaced              Lu et al. 2022 (DPM-Solver), section 3.2

In t, on the levels k / N of the process, then 0 (Lin et al. 2023, table 2):

    leading       k = 1 + offset + (n - 1 - i) floor(N / n)
    trailing      k = N - i N / n
    linspace      k from N to 1, evenly spaced

A discrete process rounds k, as diffusers does; a continuous one does not, and its `leading` has
N / n for the floor.

Singular points: every grid ends at t = 0, alpha = 1, sigma = 0, where no denoiser is called. Where
the process has alpha = 0 at t = 1 (flow, zero terminal SNR), s_max would be infinite: the grid
starts at t = 1 and its other n - 1 levels are spaced from t = 1 - 1/N.

All in numpy float64, stored in float32. Axis legend: N+1 levels of N steps.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff.diffusion.process import Process, log_snr, t_of_log_snr
from jaxdiff.errors import UserError, choose


class Grid(NamedTuple):
    """Noise levels from noisy to clean, and between each two of them the one halfway in log-SNR."""

    t: Float[Array, " N+1"]
    """Time in [0, 1]."""
    alpha: Float[Array, " N+1"]
    """Factor of the data."""
    sigma: Float[Array, " N+1"]
    """Factor of the noise; 0 at the end."""
    t_mid: Float[Array, " N"]
    """Time of the midpoints; an interval with an infinite end has its clean end here."""
    alpha_mid: Float[Array, " N"]
    """Factor of the data at the midpoints."""
    sigma_mid: Float[Array, " N"]
    """Factor of the noise at the midpoints."""

    @property
    def n(self) -> int:
        """The number of steps."""
        return self.t.shape[0] - 1


def make_grid(
    process: Process,
    kind: str,
    num_steps: int,
    *,
    rho: float = 7.0,
    steps_offset: int = 0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
) -> Grid:
    """The grid of a kind with `num_steps` steps, float32.

    Pass it to a jitted function as an argument: changing its values then compiles nothing.

    Args:
      process: the forward process.
      kind: karras, exponential, log_snr, leading, trailing or linspace.
      num_steps: how many times a first-order sampler calls the network.
      rho: the exponent of karras.
      steps_offset: added to the levels of leading (1 for Stable Diffusion).
      sigma_min: least sigma / alpha but for the final 0, for the first three kinds.
      sigma_max: largest sigma / alpha, for the first three kinds.

    Raises:
      UserError: unknown kind, impossible number of steps, or a level that the process never has.
    """
    t = grid_times(
        process, kind, num_steps, rho=rho, steps_offset=steps_offset, sigma_min=sigma_min,
        sigma_max=sigma_max,
    )  # fmt: skip
    return Grid(*(jnp.asarray(level, jnp.float32) for level in grid_at(process, t)))


def grid_at(process: Process, t: np.ndarray) -> Grid:
    """The grid that visits these times [N+1], numpy float64; a final t = 0 has sigma = 0."""
    t = np.asarray(t, np.float64)
    clean = (t == 0) & (np.arange(len(t)) == len(t) - 1)  # ve has sigma_min at t = 0
    alpha = np.where(clean, 1.0, process.alpha(t))
    sigma = np.where(clean, 0.0, process.sigma(t))
    level = np.where(clean, np.inf, log_snr(process, t))
    ends = np.stack([level[:-1], level[1:]])
    finite = np.isfinite(ends).all(0)
    middle = np.where(finite, np.where(finite, ends, 0.0).mean(0), 0.0)
    t_mid = np.where(finite, t_of_log_snr(process, middle), t[1:])
    alpha_mid = np.where(finite, process.alpha(t_mid), alpha[1:])
    sigma_mid = np.where(finite, process.sigma(t_mid), sigma[1:])
    return Grid(t, alpha, sigma, t_mid, alpha_mid, sigma_mid)


def last_steps(grid: Grid, count: int) -> Grid:
    """The grid's last `count` steps first, behind them its clean end: as many levels as before.

    So a part of a grid has the shape of the whole; `sample(..., count=count)` runs the part.

    Raises:
      UserError: count is not 0 to N.
    """
    if not 0 <= count <= grid.n:
        raise UserError(f"{count} of {grid.n} steps were asked for; give 0 to {grid.n}")

    def part(levels: Array) -> Array:
        at = np.arange(len(levels)) + grid.n - count
        return jnp.asarray(np.asarray(levels)[np.minimum(at, len(levels) - 1)])

    return Grid(*map(part, grid))


def grid_times(
    process: Process,
    kind: str,
    num_steps: int,
    *,
    rho: float = 7.0,
    steps_offset: int = 0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
) -> np.ndarray:
    """The times [num_steps + 1] of a grid, numpy float64; arguments as for `make_grid`."""
    choose("noise schedule", kind, GRIDS)
    if num_steps < 1:
        raise UserError(f"num_steps is {num_steps}; give at least 1")
    if kind in _IN_TIME:
        if process.discrete and num_steps > process.num_levels:
            raise UserError(
                f"num_steps is {num_steps}, but the process has {process.num_levels} levels; "
                "give no more"
            )
        k = _IN_TIME[kind](process.num_levels, num_steps, process.discrete, steps_offset)
        if not 0 < k.min() <= k.max() <= process.num_levels:
            raise UserError(
                f"steps_offset {steps_offset} leaves the {process.num_levels} levels of the "
                "process; give a smaller one"
            )
        return np.append((np.round(k) if process.discrete else k) / process.num_levels, 0.0)
    low, high, start = _range(process, num_steps, sigma_min, sigma_max)
    s = _IN_SIGMA[kind](low, high, num_steps - len(start), rho)
    return np.concatenate([start, t_of_log_snr(process, -2 * np.log(s)), [0.0]])


def _range(
    process: Process, n: int, sigma_min: float | None, sigma_max: float | None
) -> tuple[float, float, list[float]]:
    """(s_min, s_max, times before s_max): [1.0] where the process ends at alpha = 0."""
    ratio = lambda t: float(np.exp(-log_snr(process, t) / 2))  # noqa: E731
    step = 1 / process.num_levels
    infinite = float(process.alpha(1.0)) == 0
    start = [1.0] if infinite and sigma_max is None else []
    low = sigma_min or ratio(0.0 if process.sigma(0.0) > 0 else step)
    high = sigma_max or ratio(1.0 - step if infinite else 1.0)
    slack = 1 + 1e-6
    if not ratio(0.0) <= low * slack or not high <= ratio(1.0) * slack or not low < high:
        raise UserError(
            f"sigma_min {low:g} and sigma_max {high:g} must lie in order within the process's "
            f"{ratio(0.0):g} to {ratio(1.0):g}; give other ones"
        )
    return low, high, start


def _karras(low: float, high: float, n: int, rho: float) -> np.ndarray:
    return np.linspace(high ** (1 / rho), low ** (1 / rho), n) ** rho


def _exponential(low: float, high: float, n: int, rho: float) -> np.ndarray:
    return np.exp(np.linspace(np.log(high), np.log(low), n))


def _leading(levels: int, n: int, discrete: bool, offset: int) -> np.ndarray:
    stride = levels // n if discrete else levels / n
    return np.arange(n)[::-1] * stride + 1.0 + offset


def _trailing(levels: int, n: int, discrete: bool, offset: int) -> np.ndarray:
    return levels - np.arange(n) * (levels / n)


def _linspace(levels: int, n: int, discrete: bool, offset: int) -> np.ndarray:
    return np.linspace(levels, 1.0, n)


_IN_SIGMA: dict[str, Callable] = {
    "karras": _karras,
    "exponential": _exponential,
    "log_snr": _exponential,
}
_IN_TIME: dict[str, Callable] = {
    "leading": _leading,
    "trailing": _trailing,
    "linspace": _linspace,
}
GRIDS = (*_IN_SIGMA, *_IN_TIME)
"""The kinds of grid."""
