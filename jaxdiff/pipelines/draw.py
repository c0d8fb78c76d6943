"""The one function that is compiled: token ids, seeds, guidance and noise levels to pixels.

Axis legend: B pictures, T tokens, H W pixels, h w Z latents, S steps shown.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxdiff.convert import Model
from jaxdiff.diffusion.grids import Grid
from jaxdiff.diffusion.guidance import classifier_free_batched
from jaxdiff.diffusion.prediction import denoiser
from jaxdiff.diffusion.samplers import initial_noise, make_sampler, sample
from jaxdiff.models import Autoencoder, TextEncoder, UNet
from jaxdiff.models.autoencoder import to_uint8
from jaxdiff.rng import image_keys

SHOWN_STEPS = 8  # x0 predictions that are shown of a run


class Rows(NamedTuple):
    """One row per picture; other values compile nothing."""

    ids: Int[Array, "B T"]
    """Token ids of the prompts."""
    negative_ids: Int[Array, "B T"]
    """Token ids of the negative prompts."""
    seeds: Int[Array, " B"]
    """Seeds in [0, 2^32)."""
    latents: Float[Array, "B h w Z"] | None
    """Noise to start from instead of the seeds' own."""


class Controls(NamedTuple):
    """The same for every picture; other values compile nothing."""

    guidance_scale: Float[Array, ""]
    """1 is off."""
    guidance_rescale: Float[Array, ""]
    """0 is off."""
    grid: Grid
    """Noise levels."""


def draw(
    model: Model,
    dtype: DTypeLike,
    params: dict[str, Any],
    rows: Rows,
    controls: Controls,
    *,
    sampler: str,
    show: bool,
) -> tuple[Array, Array | None]:
    """The function that is jitted, with `model`, `dtype`, `sampler` and `show` compiled in.

    Args:
      model: shapes, noise and prediction; its parameters are not used.
      dtype: what the networks compute in.
      params: parameters of `unet`, `vae` and the text encoder, by name.
      rows: one row per picture.
      controls: guidance and noise levels.
      sampler: a name of `SAMPLERS`.
      show: whether to return predictions too.

    Returns:
      Pictures [B H W 3] and, if shown, the x0 predictions [S B H W 3] at S steps; uint8.
    """
    size = model.unet_config.sample_size
    keys, grid = image_keys(rows.seeds), controls.grid
    shape = (size, size, model.unet_config.in_channels)
    x = initial_noise(keys, shape, grid)
    if rows.latents is not None:
        x = rows.latents * jnp.sqrt(grid.alpha[0] ** 2 + grid.sigma[0] ** 2)
    ids = jnp.concatenate([rows.ids, rows.negative_ids])
    (tower,) = model.text
    text = TextEncoder(tower.config, dtype)
    context = text.apply({"params": params[tower.name]}, ids).last_hidden
    unet = UNet(model.unet_config, dtype)

    def net(x_t: Array, timestep: Array) -> Array:
        return unet.apply({"params": params["unet"]}, x_t, timestep, context)

    def decode(z: Array) -> Array:
        z = z / model.vae_config.scaling_factor
        vae = Autoencoder(model.vae_config, dtype)
        return to_uint8(vae.apply({"params": params["vae"]}, z, method="decode"))

    denoise = classifier_free_batched(
        denoiser(net, model.noise.process(), model.noise.prediction_row()),
        controls.guidance_scale,
        rescale=controls.guidance_rescale,
    )
    method = make_sampler(sampler)
    if not show:
        return decode(sample(denoise, method, grid, x, keys)), None
    z, trace = sample(denoise, method, grid, x, keys, with_x0_trace=True)
    steps = np.linspace(0, grid.n - 1, min(grid.n, SHOWN_STEPS)).round().astype(int)
    return decode(z), jax.lax.map(decode, trace[steps])
