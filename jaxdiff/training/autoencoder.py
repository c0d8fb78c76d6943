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
from jaxdiff.data.sources import Source
from jaxdiff.errors import UserError
from jaxdiff.models import Autoencoder, example_inputs
from jaxdiff.models.autoencoder import from_uint8, to_uint8
from jaxdiff.rng import named_keys, normal_each
from jaxdiff.training.config import AutoencoderObjective, TrainConfig
from jaxdiff.training.objective import Objective, serve, tile
from jaxdiff.training.step import Batch, LossFn, Metrics, Params, StepKeys

SAMPLES = 512  # pictures that the latents are measured on


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


def autoencoder_loss(model: Autoencoder, config: AutoencoderObjective) -> LossFn:
    """The loss (eq. 1), with the peak signal-to-noise ratio and the KL divergence as metrics."""
    factor, latents = config.autoencoder.downscale, config.autoencoder.latent_channels

    def loss(params: Params, frozen: Params, batch: Batch, keys: StepKeys) -> tuple[Array, Metrics]:
        x = from_uint8(batch["image"])
        each = jax.vmap(lambda key: named_keys(key, "z")["z"])(keys.examples)
        noise = normal_each(each, (x.shape[1] // factor, x.shape[2] // factor, latents))
        y, mean, log_variance = model.apply({"params": params}, x, noise)
        reconstruction, squared = reconstruction_loss(y, x, config)
        kl = kl_divergence(mean, log_variance)
        psnr = 10 * jnp.log10(4 / squared)  # the range of [-1, 1] is 2
        return reconstruction + config.kl_weight * kl, {"psnr": psnr, "kl": kl}

    return loss


def autoencoder_objective(run: TrainConfig, source: Source, workdir: Path) -> Objective:
    """Build the objective; `workdir` keeps nothing more.

    Raises:
      UserError: the pictures' size does not divide into latent pixels.
    """
    config: AutoencoderObjective = run.objective
    shape, size = config.autoencoder, run.data.resolution
    if size % shape.downscale:
        raise UserError(
            f"data.resolution={size} must be a multiple of {shape.downscale}, which this "
            "autoencoder divides it by"
        )
    spread = np.linspace(0, len(source) - 1, min(SAMPLES, len(source))).astype(int)
    samples = np.stack([source[int(i)]["image"] for i in spread])
    model = Autoencoder(shape, jnp.dtype(run.dtype))

    def init(key: Array, given: Params) -> Params:
        return model.init(key, **example_inputs(shape))["params"]

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
        save_autoencoder(directory, shape, params, scaling_factor=scale, facts=facts)

    batches = serve(source, run.data, lambda captions: {})
    loss = autoencoder_loss(model, config)
    return Objective(init, {}, {}, loss, batches, lambda workdir: None, preview, export)
