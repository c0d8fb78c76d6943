r"""What a network predicts, and the one table that turns it into x0.

With x_t = alpha x0 + sigma eps on any process (not only where alpha^2 + sigma^2 = 1):

    name   target                                 x0 from it
    eps    eps                                    (x_t - sigma out) / alpha
    x0     x0                                     out
    v      alpha eps - sigma x0                   (alpha x_t - sigma out) / (alpha^2 + sigma^2)
    flow   eps - x0                               (x_t - sigma out) / (alpha + sigma)
    edm    (sigma x0 - s^2 alpha eps) / (s n)     (s^2 alpha x_t + s sigma n out) / n^2

v is Salimans & Ho 2022, section 4 and appendix D; flow is Liu et al. 2023, eq. 1; edm is the
preconditioning of Karras et al. 2022, eq. 7 and table 1, written for x_t instead of x_t / alpha,
with s = sigma_data and n^2 = sigma^2 + s^2 alpha^2, so that neither alpha = 0 nor sigma = 0 divides
by zero.

Singular points: eps at alpha = 0 says nothing of x0, which is then taken as 0, the mean of data in
[-1, 1]; `to_eps` at sigma = 0 gives 0.

Axis legend: B images; alpha and sigma are scalars, [B], or broadcastable to x.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.diffusion.arrays import divide, expand
from jaxdiff.diffusion.process import Process
from jaxdiff.errors import choose

Denoise = Callable[[Float[Array, "B ..."], Float[Array, " B"]], Float[Array, "B ..."]]
"""(x_t, t) -> the expected x0, float32; conditioning is closed over."""

Net = Callable[[Float[Array, "B ..."], Float[Array, " B"]], Float[Array, "B ..."]]
"""(x_t, timestep) -> what the network predicts; parameters and conditioning are closed over."""


class Prediction(NamedTuple):
    """One row of the table; every function is elementwise in its arrays."""

    to_x0: Callable
    """(out, x_t, alpha, sigma) -> x0."""
    target: Callable
    """(x0, eps, alpha, sigma) -> what the network should output."""
    x0_gain: Callable
    """(alpha, sigma) -> |error of x0| / |error of the output|; +inf for eps at alpha = 0."""
    eps_gain: Callable
    """(alpha, sigma) -> |error of eps| / |error of the output|; +inf for x0 at sigma = 0."""
    input_scale: Callable
    """(alpha, sigma) -> the factor on x_t before it enters the network."""


def _unscaled(alpha: Array, sigma: Array) -> Array:
    return jnp.ones_like(alpha)


EPS = Prediction(
    to_x0=lambda out, x, alpha, sigma: divide(x - sigma * out, alpha),
    target=lambda x0, eps, alpha, sigma: eps,
    x0_gain=lambda alpha, sigma: divide(sigma, alpha, jnp.inf),
    eps_gain=lambda alpha, sigma: jnp.ones_like(alpha),
    input_scale=_unscaled,
)
X0 = Prediction(
    to_x0=lambda out, x, alpha, sigma: out,
    target=lambda x0, eps, alpha, sigma: x0,
    x0_gain=lambda alpha, sigma: jnp.ones_like(alpha),
    eps_gain=lambda alpha, sigma: divide(alpha, sigma, jnp.inf),
    input_scale=_unscaled,
)
V = Prediction(
    to_x0=lambda out, x, alpha, sigma: (alpha * x - sigma * out) / (alpha**2 + sigma**2),
    target=lambda x0, eps, alpha, sigma: alpha * eps - sigma * x0,
    x0_gain=lambda alpha, sigma: sigma / (alpha**2 + sigma**2),
    eps_gain=lambda alpha, sigma: alpha / (alpha**2 + sigma**2),
    input_scale=_unscaled,
)
FLOW = Prediction(
    to_x0=lambda out, x, alpha, sigma: (x - sigma * out) / (alpha + sigma),
    target=lambda x0, eps, alpha, sigma: eps - x0,
    x0_gain=lambda alpha, sigma: sigma / (alpha + sigma),
    eps_gain=lambda alpha, sigma: alpha / (alpha + sigma),
    input_scale=_unscaled,
)


def edm(sigma_data: float = 0.5) -> Prediction:
    """The preconditioned prediction of Karras et al. 2022 for data of this standard deviation."""
    s = sigma_data

    def norm(alpha: Array, sigma: Array) -> Array:
        return jnp.sqrt(sigma**2 + (s * alpha) ** 2)

    def to_x0(out: Array, x: Array, alpha: Array, sigma: Array) -> Array:
        n = norm(alpha, sigma)  # c_skip x / alpha + c_out out
        return (s**2 * alpha * x / n + s * sigma * out) / n

    return Prediction(
        to_x0=to_x0,
        target=lambda x0, eps, a, b: (b * x0 - s**2 * a * eps) / (s * norm(a, b)),
        x0_gain=lambda a, b: s * b / norm(a, b),
        eps_gain=lambda a, b: s * a / norm(a, b),
        input_scale=lambda a, b: 1 / norm(a, b),  # c_in / alpha
    )


PREDICTIONS = {"eps": EPS, "x0": X0, "v": V, "flow": FLOW, "edm": edm()}
"""The table; `edm(sigma_data)` makes another row."""


def get_prediction(prediction: str | Prediction) -> Prediction:
    """The row of a name; a row is returned as it is.

    Raises:
      UserError: the name is unknown.
    """
    if isinstance(prediction, str):
        return PREDICTIONS[choose("prediction", prediction, PREDICTIONS)]
    return prediction


def to_x0(
    prediction: str | Prediction, out: Array, x_t: Array, alpha: Array, sigma: Array
) -> Float[Array, "B ..."]:
    """x0 [B ...] from a network's output; 0 for eps at alpha = 0."""
    alpha, sigma = expand(alpha, x_t), expand(sigma, x_t)
    return get_prediction(prediction).to_x0(out, x_t, alpha, sigma)


def to_eps(
    prediction: str | Prediction, out: Array, x_t: Array, alpha: Array, sigma: Array
) -> Float[Array, "B ..."]:
    """Eps [B ...] from a network's output: (x_t - alpha x0) / sigma, 0 where sigma = 0."""
    if get_prediction(prediction) is EPS:
        return out
    x0 = to_x0(prediction, out, x_t, alpha, sigma)
    return eps_of_x0(x0, x_t, alpha, sigma)


def eps_of_x0(x0: Array, x_t: Array, alpha: Array, sigma: Array) -> Float[Array, "B ..."]:
    """Eps [B ...] that takes x0 to x_t: (x_t - alpha x0) / sigma, 0 where sigma = 0."""
    return divide(x_t - expand(alpha, x_t) * x0, expand(sigma, x_t))


def target(
    prediction: str | Prediction, x0: Array, eps: Array, alpha: Array, sigma: Array
) -> Float[Array, "B ..."]:
    """What the network should output for this x0 and eps, [B ...]."""
    alpha, sigma = expand(alpha, x0), expand(sigma, x0)
    return get_prediction(prediction).target(x0, eps, alpha, sigma)


def denoiser(net: Net, process: Process, prediction: str | Prediction) -> Denoise:
    """Wrap a network as Denoise: (x_t [B ...], t [B]) -> x0 [B ...], float32.

    The network sees x_t times the prediction's input scale and `process.timestep(t)`; what it
    returns is cast to float32 before any arithmetic.
    """
    row = get_prediction(prediction)

    def denoise(x_t: Float[Array, "B ..."], t: Float[Array, " B"]) -> Float[Array, "B ..."]:
        x_t = x_t.astype(jnp.promote_types(x_t.dtype, jnp.float32))
        alpha, sigma = expand(process.alpha(t), x_t), expand(process.sigma(t), x_t)
        out = net(row.input_scale(alpha, sigma) * x_t, process.timestep(t))
        return row.to_x0(out.astype(x_t.dtype), x_t, alpha, sigma)

    return denoise
