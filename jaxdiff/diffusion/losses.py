r"""The training objective, per example: levels, weights, target.

    loss_b = w(alpha, sigma) mean_{H W C} (net(x_t, timestep) - target)^2              (1)

A weight is defined on the squared error of x0, w_x0(SNR), and converted to the network's own
target: an output error e is an x0 error of x0_gain e and an eps error of eps_gain e, and
SNR x0_gain^2 = eps_gain^2 (prediction.py). So every prediction type gets the same objective, in a
form that is finite at SNR = 0 and SNR = inf.

Axis legend: B examples.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxdiff.diffusion.arrays import expand
from jaxdiff.diffusion.prediction import Net, Prediction, get_prediction
from jaxdiff.diffusion.process import Process, t_of_log_snr
from jaxdiff.errors import choose
from jaxdiff.rng import named_keys, normal_each

# ------------------------------------------------------------------------------------------- levels

Levels = Callable[..., Float[Array, " B"]]
"""(process, keys [B], batch_key, index [B], total) -> t [B]."""


def _uniform_each(keys: Key[Array, " B"]) -> Float[Array, " B"]:
    return jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32))(keys)


def uniform() -> Levels:
    """T uniform in [0, 1)."""

    def sample(process, keys, batch_key, index, total):  # noqa: ANN001, ANN202
        return _uniform_each(keys)

    return sample


def stratified() -> Levels:
    """T = (u + index / total) mod 1 with one u for the batch: uniform, and evenly spread.

    Kingma et al. 2021 (VDM), appendix I.1. Example `index` of `total` in the *global* batch.
    """

    def sample(process, keys, batch_key, index, total):  # noqa: ANN001, ANN202
        if batch_key is None:
            raise ValueError("stratified levels need batch_key: one key for the whole batch")
        u = jax.random.uniform(batch_key, (), jnp.float32)
        return jnp.mod(u + index.astype(jnp.float32) / total, 1.0)

    return sample


def logit_normal(mean: float = 0.0, std: float = 1.0) -> Levels:
    """T = sigmoid(mean + std z), z ~ N(0, 1) (Esser et al. 2024, SD3, eq. 19)."""

    def sample(process, keys, batch_key, index, total):  # noqa: ANN001, ANN202
        return jax.nn.sigmoid(mean + std * normal_each(keys, ()))

    return sample


def edm_lognormal(mean: float = -1.2, std: float = 1.2) -> Levels:
    """ln(sigma / alpha) ~ N(mean, std^2) (Karras et al. 2022, table 1), clipped to the process."""

    def sample(process, keys, batch_key, index, total):  # noqa: ANN001, ANN202
        return t_of_log_snr(process, -2 * (mean + std * normal_each(keys, ())))

    return sample


def discrete(n: int = 1000) -> Levels:
    """T = (i + 1) / n, i uniform in 0 .. n - 1: the knots of a discrete `vp` (Ho et al. 2020)."""

    def sample(process, keys, batch_key, index, total):  # noqa: ANN001, ANN202
        i = jax.vmap(lambda key: jax.random.randint(key, (), 0, n))(keys)
        return (i + 1).astype(jnp.float32) / n

    return sample


LEVELS: dict[str, Callable[..., Levels]] = {
    "uniform": uniform,
    "stratified": stratified,
    "logit_normal": logit_normal,
    "edm_lognormal": edm_lognormal,
    "discrete": discrete,
}


def make_levels(name: str, **options: float) -> Levels:
    """The level sampler of a name, with its options.

    Raises:
      UserError: the name is unknown.
    """
    return LEVELS[choose("level sampling", name, LEVELS)](**options)


# ------------------------------------------------------------------------------------------ weights

Weighting = Callable[[Array, Array, Prediction], Array]
"""(alpha, sigma, prediction) -> the factor on the squared error of the prediction's own target."""


def unweighted() -> Weighting:
    """1 on the prediction's own target: L_simple of Ho et al. 2020, eq. 14, for eps."""
    return lambda alpha, sigma, prediction: jnp.ones_like(alpha)


def min_snr(gamma: float = 5.0) -> Weighting:
    """min(SNR, gamma) on the x0 error (Hang et al. 2023, section 3.4).

    As min(eps_gain^2, gamma x0_gain^2): min(1, gamma / SNR) for eps, min(SNR, gamma) / (SNR + 1)
    for v, as printed, without a division by an SNR of 0.
    """

    def weight(alpha: Array, sigma: Array, prediction: Prediction) -> Array:
        x0_gain, eps_gain = prediction.x0_gain(alpha, sigma), prediction.eps_gain(alpha, sigma)
        return jnp.minimum(eps_gain**2, gamma * x0_gain**2)

    return weight


def edm_weight(sigma_data: float = 0.5) -> Weighting:
    """(s^2 + sigma_data^2) / (s sigma_data)^2 on the x0 error, s = sigma / alpha.

    Karras et al. 2022, table 1. It is SNR + 1 / sigma_data^2, hence
    eps_gain^2 + x0_gain^2 / sigma_data^2 here, and 1 for the edm prediction. Eps at alpha = 0,
    where the output says nothing of x0, gets eps_gain^2 alone; x0 at sigma = 0 gets
    1 / sigma_data^2.
    """

    def weight(alpha: Array, sigma: Array, prediction: Prediction) -> Array:
        x0_gain, eps_gain = _finite_gains(alpha, sigma, prediction)
        return eps_gain**2 + (x0_gain / sigma_data) ** 2

    return weight


def sigmoid(bias: float = 0.0) -> Weighting:
    """The sigmoid of bias - log_snr on the eps error.

    Kingma & Gao 2023, table 1 (their w; the factor -d log_snr / dt belongs to the density of the
    levels), also the sigmoid loss of Hoogeboom et al. 2024 (SiD2). With sigmoid(bias - log_snr) =
    e^bias sigma^2 / (alpha^2 + e^bias sigma^2), and the eps gain replaced by the x0 gain where
    alpha > sigma, neither end divides by zero.
    """

    def weight(alpha: Array, sigma: Array, prediction: Prediction) -> Array:
        x0_gain, eps_gain = _finite_gains(alpha, sigma, prediction)
        scale = jnp.exp(bias) / (alpha**2 + jnp.exp(bias) * sigma**2)
        return scale * jnp.where(alpha > sigma, x0_gain * alpha, eps_gain * sigma) ** 2

    return weight


def _finite_gains(alpha: Array, sigma: Array, prediction: Prediction) -> tuple[Array, Array]:
    gains = prediction.x0_gain(alpha, sigma), prediction.eps_gain(alpha, sigma)
    return tuple(jnp.where(jnp.isfinite(gain), gain, 0.0) for gain in gains)


WEIGHTINGS: dict[str, Callable[..., Weighting]] = {
    "uniform": unweighted,
    "min_snr": min_snr,
    "edm": edm_weight,
    "sigmoid": sigmoid,
}


def make_weighting(name: str, **options: float) -> Weighting:
    """The weighting of a name, with its options.

    Raises:
      UserError: the name is unknown.
    """
    return WEIGHTINGS[choose("loss weighting", name, WEIGHTINGS)](**options)


# --------------------------------------------------------------------------------------------- loss


def diffusion_loss(
    net: Net,
    process: Process,
    prediction: str | Prediction,
    x0: Float[Array, "B ..."],
    keys: Key[Array, " B"],
    *,
    levels: Levels,
    weighting: Weighting,
    noise_offset: float = 0.0,
    batch_key: Key[Array, ""] | None = None,
    index: Int[Array, " B"] | None = None,
    total: int | None = None,
) -> Float[Array, " B"]:
    """The loss of each example, eq. (1), float32.

    Args:
      net: (x_t, timestep) -> output; parameters and conditioning closed over.
      process: the forward process.
      prediction: what the network predicts.
      x0: data in [-1, 1] or latents of unit variance.
      keys: one key per example, spent here for its level and its noise.
      levels: how t is drawn, from `LEVELS`.
      weighting: the factor on the squared error, from `WEIGHTINGS`.
      noise_offset: scale of further noise, one number per example and channel, that teaches a
        network whose last level is not pure noise to change a picture's mean (Guttenberg 2023,
        "Diffusion with offset noise").
      batch_key: one key for the global batch; `stratified` alone needs it.
      index: position of each example in the global batch; 0 .. B - 1 by default.
      total: size of the global batch; B by default.
    """
    row, batch = get_prediction(prediction), x0.shape[0]
    index = jnp.arange(batch) if index is None else index
    each = jax.vmap(lambda key: named_keys(key, "t", "eps"))(keys)
    t = levels(process, each["t"], batch_key, index, batch if total is None else total)
    x0 = x0.astype(jnp.promote_types(x0.dtype, jnp.float32))
    eps = normal_each(each["eps"], x0.shape[1:])
    if noise_offset:
        offset = jax.vmap(lambda key: named_keys(key, "offset")["offset"])(keys)
        flat = (*(1,) * (x0.ndim - 2), x0.shape[-1])
        eps = eps + noise_offset * normal_each(offset, flat)
    level_alpha, level_sigma = process.alpha(t), process.sigma(t)
    alpha, sigma = expand(level_alpha, x0), expand(level_sigma, x0)
    x_t = alpha * x0 + sigma * eps
    out = net(row.input_scale(alpha, sigma) * x_t, process.timestep(t)).astype(x0.dtype)
    error = out - row.target(x0, eps, alpha, sigma)
    mean_square = jnp.mean(error**2, axis=tuple(range(1, error.ndim)))
    return weighting(level_alpha, level_sigma, row) * mean_square
