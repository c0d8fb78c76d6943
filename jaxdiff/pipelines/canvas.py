"""Pictures to latents and back, inside the jitted function: what is known, and where to draw.

Axis legend: B pictures, H W pixels, h w Z latents, F pixels per latent along one side.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from jaxdiff.models import Autoencoder
from jaxdiff.models.autoencoder import from_uint8, to_uint8
from jaxdiff.models.tiling import tiled_decode, tiled_encode
from jaxdiff.pipelines.network import Networks, Params

_OVERLAP = 4  # tiles share a quarter of their side


class Canvas(NamedTuple):
    """The pictures given, as the diffusion sees them."""

    x0: Float[Array, "B h w Z"] | None
    """Scaled latents of the picture to start from."""
    mask: Float[Array, "B h w 1"] | None
    """1 where to draw, 0 where x0 is known."""
    extra: Float[Array, "B h w C"] | None
    """What the UNet is given beside the noisy latents."""


def encode(
    networks: Networks, params: Params, images: Float[Array, "B H W 3"], tile: int
) -> Float[Array, "B h w Z"]:
    """The mean of q(z | image), scaled, for pictures in [-1, 1]; `tile` is a side in pixels."""
    vae = Autoencoder(networks.model.vae_config, networks.dtype)

    def whole(x: Array) -> Array:
        return vae.apply({"params": params["vae"]}, x, method="encode")[0]

    side = tile // networks.downscale
    latents = tiled_encode(whole, images, side, side // _OVERLAP) if tile else whole(images)
    return networks.model.vae_config.scaling_factor * latents


def decode(
    networks: Networks, params: Params, z: Float[Array, "B h w Z"], tile: int
) -> Float[Array, "B H W 3"]:
    """Scaled latents as pictures of about [-1, 1]; `tile` is a side in pixels."""
    vae = Autoencoder(networks.model.vae_config, networks.dtype)

    def whole(z: Array) -> Array:
        return vae.apply({"params": params["vae"]}, z, method="decode")

    z, side = z / networks.model.vae_config.scaling_factor, tile // networks.downscale
    return tiled_decode(whole, z, side, side // _OVERLAP) if tile else whole(z)


def make_canvas(
    networks: Networks,
    params: Params,
    init: UInt8[Array, "B H W 3"] | None,
    mask: UInt8[Array, "B H W"] | None,
    batch: int,
    size: tuple[int, int],
    tile: int,
) -> Canvas:
    """Encode what was given; an inpainting network is told to draw all where there is no mask.

    Args:
      networks: all shapes.
      params: all parameters.
      init: pictures to start from.
      mask: white where to draw.
      batch: B.
      size: height and width of the latents.
      tile: side in pixels of the autoencoder's tiles; 0 for none.
    """
    x0 = None if init is None else encode(networks, params, from_uint8(init), tile)
    drawn = None if mask is None else latent_mask(mask, networks.downscale)
    if not networks.inpaints:
        return Canvas(x0, drawn, None)
    if init is None or mask is None:
        pixels = (batch, *(side * networks.downscale for side in size))
        drawn, seen = jnp.ones((batch, *size, 1)), jnp.zeros((*pixels, 3))
    else:
        seen = from_uint8(init) * (mask < 128)[..., None]
    known = encode(networks, params, seen, tile)
    return Canvas(x0, drawn, jnp.concatenate([drawn, known], axis=-1))


def latent_mask(mask: UInt8[Array, "B H W"], factor: int) -> Float[Array, "B h w 1"]:
    """1 where any of a latent's F x F pixels is at least half white."""
    batch, height, width = mask.shape
    cells = mask.reshape(batch, height // factor, factor, width // factor, factor)
    return (cells.max((2, 4)) >= 128).astype(jnp.float32)[..., None]


def paste(
    drawn: Float[Array, "B H W 3"],
    init: UInt8[Array, "B H0 W0 3"] | None,
    mask: UInt8[Array, "B H W"] | None,
) -> UInt8[Array, "B H W 3"]:
    """The drawn picture where the mask is white, the given one where it is black, grey a mixture.

    Where the mask is 0 the pixels are those given, exactly. Without a mask, all is drawn, and may
    have another size than what was given.
    """
    if init is None or mask is None:
        return to_uint8(drawn)
    share = mask[..., None] / 255.0
    return to_uint8(share * jnp.clip(drawn, -1.0, 1.0) + (1 - share) * from_uint8(init))
