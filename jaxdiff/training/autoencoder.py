"""The autoencoder's objective (Rombach et al. 2022, section 3.1, without the adversary).

    L = w1 |x - y| + w2 (x - y)^2 + wg |dx - dy| + wk KL(q(z | x) || N(0, I))                    (1)

each a mean over pixels or latent elements; dx are differences of neighbouring pixels.

Axis legend: B pictures, H W pixels, Z latent channels.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff.convert.autoencoder import save_autoencoder
from jaxdiff.errors import UserError
from jaxdiff.models import Autoencoder
from jaxdiff.models.autoencoder import from_uint8, to_uint8
from jaxdiff.rng import named_keys, normal_each
from jaxdiff.training.config import AutoencoderObjective
from jaxdiff.training.objective import Objective, no_tokens, tile
from jaxdiff.training.step import Batch, Metrics, Params, StepKeys


def kl_divergence(
    mean: Float[Array, "B h w Z"], log_variance: Float[Array, "B h w Z"]
) -> Float[Array, " B"]:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) in nats, mean over elements.

    Kingma & Welling 2014, appendix B.
    """
    kl = 0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance)
    return jnp.mean(kl, axis=(1, 2, 3))


def reconstruction_loss(
    y: Float[Array, "B H W C"], x: Float[Array, "B H W C"], config: AutoencoderObjective
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """The first three terms of eq. (1), and the mean squared error alone, per picture."""

    def mean(z: Array) -> Array:
        return jnp.mean(z, axis=(1, 2, 3))

    error = y - x
    squared = mean(error**2)
    gradient = mean(jnp.abs(jnp.diff(error, axis=1))) + mean(jnp.abs(jnp.diff(error, axis=2)))
    loss = config.l1_weight * mean(jnp.abs(error)) + config.l2_weight * squared
    return loss + config.gradient_weight * gradient, squared


def autoencoder_objective(
    config: AutoencoderObjective, dtype: jnp.dtype, samples: np.ndarray
) -> Objective:
    """Build the objective.

    Args:
      config: shape and weights.
      dtype: compute type.
      samples: uint8 pictures [N, H, W, 3] for the preview and for the latents' scale.

    Raises:
      UserError: the pictures' size does not divide into latent pixels.
    """
    if samples.shape[1] % config.autoencoder.downscale:
        raise UserError(
            f"data.resolution={samples.shape[1]} must be a multiple of "
            f"{config.autoencoder.downscale}, which this autoencoder divides it by"
        )
    model = Autoencoder(config.autoencoder, dtype)
    size, latents = samples.shape[1], config.autoencoder.latent_channels
    latent_size = size // config.autoencoder.downscale

    @jax.jit
    def init(key: Array) -> Params:
        x = jnp.zeros((1, size, size, config.autoencoder.in_channels))
        z = jnp.zeros((1, latent_size, latent_size, latents))
        return model.init(key, x, z)["params"]

    def loss(params: Params, frozen: Params, batch: Batch, keys: StepKeys) -> tuple[Array, Metrics]:
        x = from_uint8(batch["image"])
        each = jax.vmap(lambda key: named_keys(key, "z")["z"])(keys.examples)
        noise = normal_each(each, (latent_size, latent_size, latents))
        y, mean, log_variance = model.apply({"params": params}, x, noise)
        reconstruction, squared = reconstruction_loss(y, x, config)
        kl = kl_divergence(mean, log_variance)
        psnr = 10 * jnp.log10(4 / squared)  # the range of [-1, 1] is 2
        return reconstruction + config.kl_weight * kl, {"psnr": psnr, "kl": kl}

    @jax.jit
    def encode(params: Params, images: Array) -> Array:
        return model.apply({"params": params}, from_uint8(images), method="encode")[0]

    @jax.jit
    def decode(params: Params, z: Array) -> Array:
        return to_uint8(model.apply({"params": params}, z, method="decode"))

    def preview(params: Params) -> np.ndarray:
        shown = samples[:16]
        rebuilt = np.asarray(decode(params, encode(params, shown)))
        return tile(np.concatenate([shown, rebuilt]), len(shown))

    def export(directory: Path, params: Params, facts: dict) -> None:
        scale = 1 / float(jnp.std(encode(params, samples)))
        save_autoencoder(directory, config.autoencoder, params, scaling_factor=scale, facts=facts)

    return Objective(init, {}, loss, no_tokens, lambda workdir: None, preview, export)
