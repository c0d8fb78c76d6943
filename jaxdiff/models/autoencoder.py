"""The KL autoencoder of latent diffusion (Rombach et al. 2022, section 3.1).

The configuration's fields are those of a checkpoint's `vae/config.json`.

Axis legend: B batch, H W pixels, h w latent pixels (h = H / 2^(levels - 1)), C channels,
Z latent channels.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from jaxdiff.errors import UserError
from jaxdiff.models.checks import require_groups, require_positive
from jaxdiff.models.layers import (
    Downsample,
    ResnetBlock,
    SelfAttention2D,
    Upsample,
    conv3x3,
    group_norm,
)
from jaxdiff.models.linear import Dense

EPSILON = 1e-6
LOG_VARIANCE_RANGE = (-30.0, 20.0)
_AT_LEAST_ONE = (
    "sample_size",
    "in_channels",
    "out_channels",
    "latent_channels",
    "layers_per_block",
)


@dataclass(frozen=True)
class AutoencoderConfig:
    """The shape of an autoencoder; defaults are Stable Diffusion 1.x."""

    sample_size: int = 512
    """Height and width, in pixels, of what it was trained on."""
    in_channels: int = 3
    """Channels of a picture."""
    out_channels: int = 3
    """Channels of a reconstruction."""
    latent_channels: int = 4
    """Channels Z of a latent."""
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    """Channels of each level, finest first; each further level halves the size."""
    layers_per_block: int = 2
    """Residual blocks of a level of the encoder; the decoder has one more."""
    norm_num_groups: int = 32
    """Groups of the group norms."""
    scaling_factor: float = 0.18215
    """What latents are multiplied by, so that the diffusion sees unit variance."""
    force_upcast: bool = True
    """Whether it computes in float32 where float16 is asked for, in which SDXL's overflows."""
    mid_block_add_attention: bool = True
    """Self-attention at the coarsest level."""
    use_quant_conv: bool = True
    """A 1x1 projection behind the encoder."""
    use_post_quant_conv: bool = True
    """A 1x1 projection before the decoder."""

    def __post_init__(self) -> None:
        """Refuse numbers that make no network."""
        require_positive("autoencoder config", self, _AT_LEAST_ONE)
        require_groups("autoencoder config", self.block_out_channels, self.norm_num_groups)
        if not self.scaling_factor > 0:
            raise UserError(
                f"autoencoder config: scaling_factor must be above 0, not {self.scaling_factor}"
            )

    @property
    def downscale(self) -> int:
        """Pixels per latent pixel along one side."""
        return 2 ** (len(self.block_out_channels) - 1)


def from_uint8(images: UInt8[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Pictures of 0 .. 255 as float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(images: Float[Array, "B H W C"]) -> UInt8[Array, "B H W C"]:
    """Pictures in [-1, 1], clipped, as the nearest of 0 .. 255."""
    return jnp.round(jnp.clip(images * 127.5 + 127.5, 0.0, 255.0)).astype(jnp.uint8)


def _resnet(config: AutoencoderConfig, features: int, dtype: DTypeLike, name: str) -> ResnetBlock:
    return ResnetBlock(features, config.norm_num_groups, EPSILON, dtype=dtype, name=name)


class MidBlock(nn.Module):
    """The coarsest level: residual block, self-attention, residual block, [B h w C] -> the same."""

    config: AutoencoderConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        config, features = self.config, self.config.block_out_channels[-1]
        x = _resnet(config, features, self.dtype, "resnets_0")(x)
        if config.mid_block_add_attention:
            attention = SelfAttention2D(
                groups=config.norm_num_groups, dtype=self.dtype, name="attentions_0"
            )
            x = attention(x)
        return _resnet(config, features, self.dtype, "resnets_1")(x)


class DownBlock(nn.Module):
    """One level of the encoder: [B H W C] -> half the size, but for the last level."""

    config: AutoencoderConfig
    level: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = self.config.block_out_channels
        for i in range(self.config.layers_per_block):
            x = _resnet(self.config, channels[self.level], self.dtype, f"resnets_{i}")(x)
        if self.level < len(channels) - 1:
            down = Downsample(
                channels[self.level], pad_after=True, dtype=self.dtype, name="downsamplers_0"
            )
            x = down(x)
        return x


class UpBlock(nn.Module):
    """One level of the decoder: [B H W C] -> twice the size, but for the finest level."""

    config: AutoencoderConfig
    level: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = self.config.block_out_channels[self.level]
        for i in range(self.config.layers_per_block + 1):
            x = _resnet(self.config, features, self.dtype, f"resnets_{i}")(x)
        if self.level > 0:
            x = Upsample(features, dtype=self.dtype, name="upsamplers_0")(x)
        return x


class Encoder(nn.Module):
    """Pictures to the moments of their latents: [B H W 3] -> [B h w 2Z]."""

    config: AutoencoderConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        config, dtype = self.config, self.dtype
        x = conv3x3(config.block_out_channels[0], dtype=dtype, name="conv_in")(x)
        for level in range(len(config.block_out_channels)):
            x = DownBlock(config, level, dtype, name=f"down_blocks_{level}")(x)
        x = MidBlock(config, dtype, name="mid_block")(x)
        norm = group_norm(config.norm_num_groups, EPSILON, dtype=dtype, name="conv_norm_out")
        return conv3x3(2 * config.latent_channels, dtype=dtype, name="conv_out")(nn.silu(norm(x)))


class Decoder(nn.Module):
    """Latents to pictures: [B h w Z] -> [B H W 3]."""

    config: AutoencoderConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        config, dtype = self.config, self.dtype
        x = conv3x3(config.block_out_channels[-1], dtype=dtype, name="conv_in")(z)
        x = MidBlock(config, dtype, name="mid_block")(x)
        for i, level in enumerate(reversed(range(len(config.block_out_channels)))):
            x = UpBlock(config, level, dtype, name=f"up_blocks_{i}")(x)
        norm = group_norm(config.norm_num_groups, EPSILON, dtype=dtype, name="conv_norm_out")
        return conv3x3(config.out_channels, dtype=dtype, name="conv_out")(nn.silu(norm(x)))


class Autoencoder(nn.Module):
    """The autoencoder; `encode` and `decode` are methods for `apply(..., method="encode")`.

    Latents here are unscaled: the diffusion works on `config.scaling_factor` times them.

    Attributes:
      config: its shape.
      dtype: compute type, but see `config.force_upcast`; parameters and the norms' reductions stay
        float32.
    """

    config: AutoencoderConfig
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Name the four parts as checkpoints do."""
        config, dtype = self.config, self.dtype
        if config.force_upcast and jnp.dtype(dtype) == jnp.float16:
            dtype = jnp.float32
        self.encoder = Encoder(config, dtype)
        self.decoder = Decoder(config, dtype)
        if config.use_quant_conv:
            self.quant_conv = Dense(2 * config.latent_channels, dtype=dtype)
        if config.use_post_quant_conv:
            self.post_quant_conv = Dense(config.latent_channels, dtype=dtype)

    def encode(
        self, x: Float[Array, "B H W C"]
    ) -> tuple[Float[Array, "B h w Z"], Float[Array, "B h w Z"]]:
        """The mean and log-variance of q(z | x), float32, for pictures in [-1, 1]."""
        moments = self.encoder(x)
        if self.config.use_quant_conv:
            moments = self.quant_conv(moments)
        mean, log_variance = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return mean, jnp.clip(log_variance, *LOG_VARIANCE_RANGE)

    def decode(self, z: Float[Array, "B h w Z"]) -> Float[Array, "B H W C"]:
        """The picture of a latent, float32, about [-1, 1] and not clipped."""
        if self.config.use_post_quant_conv:
            z = self.post_quant_conv(z)
        return self.decoder(z).astype(jnp.float32)

    def __call__(self, x: Float[Array, "B H W C"], noise: Float[Array, "B h w Z"]) -> tuple:
        """Reconstruct x through z = mean + exp(log_variance / 2) noise.

        Returns:
          The reconstruction, the mean and the log-variance.
        """
        mean, log_variance = self.encode(x)
        return self.decode(mean + jnp.exp(0.5 * log_variance) * noise), mean, log_variance
