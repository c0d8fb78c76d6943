"""What the diffusion is trained on: latents of pictures, encoded on the spot or from a cache.

    z_0 = s (mean(x) + std(x) n)                                                                 (1)

(Rombach et al. 2022, section 3.1), with the scale s of the autoencoder's config.

Axis legend: B examples, N examples of a source, F 2 where pictures may be mirrored and else 1,
H W pixels, h w latent pixels, Z latent channels, M = 2 Z their moments.
"""

import hashlib
import logging
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from jaxdiff.data.sources import DataConfig, Example, Source
from jaxdiff.errors import UserError
from jaxdiff.models import Autoencoder
from jaxdiff.models.autoencoder import from_uint8
from jaxdiff.rng import normal_each
from jaxdiff.training.cache import Rows, batched, cached_rows, storage_type, tree_hash
from jaxdiff.training.step import Batch, Params

log = logging.getLogger(__name__)

ENCODER = ("encoder", "quant_conv")
"""The parts of an autoencoder that make latents."""


class LatentData(NamedTuple):
    """A source as training reads it, and the part of the autoencoder that is still needed."""

    source: Source
    frozen: Params
    """The encoder's parameters; empty where the source has moments instead of pictures."""
    inputs: dict[str, str]
    """Hashes of the autoencoder and of the cache."""


def latent_data(
    source: Source, vae: Autoencoder, params: Params, config: DataConfig, part: str = "latents"
) -> LatentData:
    """Put the autoencoder's moments in the place of pictures, where `config.cache` asks for it.

    Args:
      source: captioned pictures.
      vae: the autoencoder.
      params: its parameters.
      config: names the cache and says whether pictures are mirrored.
      part: what to call the cache in the run's record.

    Raises:
      UserError: the pictures' sides do not divide into latent pixels, or the cache can not be
        written.
    """
    for name in ("resolution", "bucket_step"):
        if getattr(config, name) % vae.config.downscale:
            raise UserError(
                f"data.{name}={getattr(config, name)} must be a multiple of "
                f"{vae.config.downscale}, which the autoencoder divides it by"
            )
    encoder = {name: params[name] for name in ENCODER if name in params}
    inputs = {"autoencoder": tree_hash(encoder)}
    if not config.cache:
        return LatentData(source, encoder, inputs)
    facts = {
        "autoencoder": inputs["autoencoder"],
        "autoencoder_config": repr(vae.config),
        "dtype": jnp.dtype(vae.dtype).name,
        "pictures": source.fingerprint(),
        "resolution": config.resolution,
        "shapes": _shapes_hash(source),
        "flip": config.flip,
    }
    rows = _moments(source, vae, encoder, config, facts)
    cached = CachedSource(source, rows, conditioning=config.conditioning)
    return LatentData(cached, {}, {**inputs, part: rows.digest})


class CachedSource:
    """A source whose pictures are replaced by "moments" [F, h, w, M]; they are not decoded."""

    def __init__(self, source: Any, rows: Rows, *, conditioning: bool):
        self._source, self._rows, self._conditioning = source, rows, conditioning
        self.shapes = source.shapes

    def __len__(self) -> int:
        """Number of examples N."""
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        """The example without its picture, with the moments of it and of its mirror image."""
        row = self._rows[index]
        chosen = int(row["index"])
        example = {**self._source.row(chosen), "moments": row["moments"]}
        if self._conditioning:
            example["conditioning"] = self._source.conditioning(chosen)
        return example

    def row(self, index: int) -> Example:
        """The example without its picture and its moments."""
        return self._source.row(index)


def _shapes_hash(source: Any) -> str:
    return "" if source.shapes is None else hashlib.sha256(source.shapes.tobytes()).hexdigest()


def _moments(
    source: Any, vae: Autoencoder, params: Params, config: DataConfig, facts: dict
) -> Rows:
    """Rows of moments, those that are missing computed."""
    shapes = source.shapes
    if shapes is None:
        shapes = np.full((len(source), 2), config.resolution)
    factor, channels = vae.config.downscale, 2 * vae.config.latent_channels
    groups = []
    for height, width in np.unique(shapes, axis=0).tolist():
        size = (1 + config.flip, height // factor, width // factor, channels)
        fields = [("index", "<i8"), ("moments", storage_type(vae.dtype), size)]
        groups.append((np.dtype(fields), np.flatnonzero((shapes == (height, width)).all(1))))
    encode = batched(lambda params, images: encode_moments(vae, params, images), params)

    def compute(indices: np.ndarray) -> dict[str, np.ndarray]:
        examples = [source[int(index)] for index in indices]
        images = np.stack([example["image"] for example in examples])
        ways = [images, images[:, :, ::-1]] if config.flip else [images]
        return {
            "index": np.array([example["index"] for example in examples]),
            "moments": np.stack([encode(way) for way in ways], axis=1),
        }

    return cached_rows(Path(config.cache), "latents", facts, groups, compute)


def encode_moments(
    vae: Autoencoder, params: Params, images: UInt8[Array, "B H W 3"]
) -> Float[Array, "B h w M"]:
    """Mean and log-variance of q(z | x), side by side by channel."""
    moments = vae.apply({"params": params}, from_uint8(images), method="encode")
    return jnp.concatenate(moments, axis=-1)


def batch_latents(
    vae: Autoencoder, frozen: Params, batch: Batch, keys: Key[Array, " B"]
) -> Float[Array, "B h w Z"]:
    """A sample of q(z | x) per example from its own key, scaled to unit variance (eq. 1)."""
    moments = batch.get("moments")
    if moments is None:
        moments = encode_moments(vae, frozen, batch["image"])
    mean, log_variance = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
    noise = normal_each(keys, mean.shape[1:])
    return vae.config.scaling_factor * (mean + jnp.exp(0.5 * log_variance) * noise)
