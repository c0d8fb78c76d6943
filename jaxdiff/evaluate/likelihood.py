"""Bits per number of a model's latents: how likely it finds pictures, given their captions.

    bits = -log2 p(x | caption) / D,    x = alpha z + sigma eps at the grid's last level       (1)

z is the scaled latent mean of a picture, and p the density that the probability-flow ODE gives at
guidance 1 (`diffusion.likelihood`; Song et al. 2021). It is a density of latents, not of pixels: it
may be negative, and is comparable between models that share an autoencoder and a last level.

Axis legend: B pictures, H W pixels, D latent numbers of a picture.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from jaxdiff.convert import Model
from jaxdiff.diffusion.grids import Grid, make_grid
from jaxdiff.diffusion.likelihood import bits_per_dim, log_likelihood
from jaxdiff.diffusion.prediction import denoiser
from jaxdiff.diffusion.samplers import unit_noise
from jaxdiff.models import network
from jaxdiff.models.autoencoder import from_uint8
from jaxdiff.models.checks import require_latents
from jaxdiff.pipelines.encode import encode_text
from jaxdiff.pipelines.network import Given, Networks, make_net
from jaxdiff.pipelines.prompts import Tokens, tokenize_prompts
from jaxdiff.rng import image_keys, named_keys

Bits = Callable[[UInt8[np.ndarray, "B H W 3"], Sequence[str], int], Float[np.ndarray, " B"]]


def latent_bits(model: Model, steps: int = 32, probes: int = 1) -> Bits:
    """A function (pictures, captions, first picture's seed) -> bits per latent number.

    Args:
      model: with its tokenizers.
      steps: of the classical Runge-Kutta method, four network calls and derivatives each.
      probes: random probes of a picture's divergence (Hutchinson's estimate).

    Raises:
      UserError: the model draws from more than a prompt.
    """
    model.require_family("sd", "sdxl", task="a likelihood")
    params = {"unet": model.unet_params, "vae": model.vae_params}
    params |= {tower.name: tower.params for tower in model.text}
    towers = tuple(tower._replace(params={}) for tower in model.text)
    bare = dataclasses.replace(model, text=towers, unet_params={}, vae_params={})
    networks = Networks(bare, (), jnp.float32)
    compiled = jax.jit(functools.partial(_bits, networks, probes))
    grid, side = make_grid(model.noise.process(), "log_snr", steps), networks.downscale

    def bits(images: np.ndarray, captions: Sequence[str], seed: int) -> np.ndarray:
        require_latents(images.shape[1], images.shape[2], side)
        tokens = tuple(
            tokenize_prompts(tower.tokenizer, captions, max_chunks=1)[0] for tower in model.text
        )
        seeds = np.arange(seed, seed + len(images), dtype=np.uint32)
        with jax.default_matmul_precision("float32"):
            return np.asarray(compiled(params, grid, images, tokens, seeds))

    return bits


def _bits(
    networks: Networks,
    probes: int,
    params: dict[str, Any],
    grid: Grid,
    images: UInt8[Array, "B H W 3"],
    tokens: tuple[Tokens, ...],
    seeds: Array,
) -> Float[Array, " B"]:
    """Eq. (1)."""
    model, keys = networks.model, image_keys(seeds)
    text = encode_text(model, networks.dtype, params, tokens)
    vae, variables = network(model.vae_config), {"params": params["vae"]}
    mean = vae.apply(variables, from_uint8(images), method="encode")[0]
    noise = unit_noise(keys, mean.shape[1:], "last level")
    x = grid.alpha[-2] * model.vae_config.scaling_factor * mean + grid.sigma[-2] * noise
    given = Given(text, None, None, jnp.float32(1.0), (), ())
    net = make_net(networks, params, given, images.shape[1:3])
    process = model.noise.process()
    denoise = denoiser(net, process, model.noise.prediction_row())
    probe_keys = jax.vmap(lambda key: named_keys(key, "probes")["probes"])(keys)
    density = log_likelihood(denoise, process, grid, x, probe_keys, num_probes=probes)
    return bits_per_dim(density, x[0].size, levels_per_unit=1.0)
