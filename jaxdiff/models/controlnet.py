"""ControlNet (Zhang et al. 2023): a picture that says where things are steers a UNet.

A copy of the UNet's first half sees the noisy latents plus an embedding of the picture. What each
skip and the middle block give goes through a 1x1 convolution that starts at zero, and is added to
the UNet's own (eq. 2 and 4). The configuration's fields are those of a checkpoint's `config.json`.

Axis legend: B batch, h w latent pixels, H W pixels, C channels, T text tokens, D text width.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdiff.errors import UserError, choose
from jaxdiff.models.checks import require_positive
from jaxdiff.models.layers import conv3x3
from jaxdiff.models.linear import Conv, Dense, zeros
from jaxdiff.models.unet import ControlResiduals
from jaxdiff.models.unet_blocks import Blocks, DownBlock, MidBlock, time_embedding
from jaxdiff.models.unet_config import Remat, UNetConfig

CHANNEL_ORDERS = ("rgb", "bgr")
COPIED = ("conv_in", "time_embedding", "add_embedding", "down_blocks_", "mid_block")
"""What a ControlNet has in common with the UNet that it is trained for."""


@dataclass(frozen=True)
class ControlNetConfig:
    """The shape of a ControlNet; defaults are those for Stable Diffusion 1.x."""

    in_channels: int = 4
    """Channels of the noisy latents."""
    conditioning_channels: int = 3
    """Channels of the picture."""
    conditioning_embedding_out_channels: tuple[int, ...] = (16, 32, 96, 256)
    """Channels of the picture's embedding; each further one halves its size."""
    controlnet_conditioning_channel_order: str = "rgb"
    """The order of channels that it was trained with: rgb or bgr. (Pictures come in as rgb.)"""
    global_pool_conditions: bool = False
    """Whether the residuals are averaged over the picture (the `shuffle` model)."""
    down_block_types: tuple[str, ...] = UNetConfig.down_block_types
    """Per level, finest first: with text attention (CrossAttnDownBlock2D) or without."""
    only_cross_attention: bool | tuple[bool, ...] = False
    """As the UNet's."""
    block_out_channels: tuple[int, ...] = UNetConfig.block_out_channels
    """Channels of each level."""
    layers_per_block: int = 2
    """Residual blocks of a level."""
    cross_attention_dim: int = 768
    """Width of the text encoder's output."""
    attention_head_dim: int | tuple[int, ...] = 8
    """Number of attention heads, of all levels or of each."""
    transformer_layers_per_block: int | tuple[int, ...] = 1
    """Depth of the transformers, of all levels or of each."""
    norm_num_groups: int = 32
    """Groups of the group norms."""
    norm_eps: float = 1e-5
    """Epsilon of the residual blocks' group norms."""
    use_linear_projection: bool = False
    """Whether a checkpoint stores the transformers' projections as matrices or 1x1 kernels."""
    upcast_attention: bool = False
    """As the UNet's."""
    addition_embed_type: str | None = None
    """None, or "text_time": SDXL's pooled text and size conditioning."""
    addition_time_embed_dim: int | None = None
    """Width of each embedded size (SDXL: 256)."""
    projection_class_embeddings_input_dim: int | None = None
    """Width of pooled text and embedded sizes together (SDXL: 2816)."""
    remat: Remat = "none"
    """As the UNet's."""
    attention: str = "auto"
    """Attention kernel: auto, einsum, blocked, cudnn or splash."""

    def __post_init__(self) -> None:
        """Refuse what makes no network."""
        order = self.controlnet_conditioning_channel_order
        choose("controlnet_conditioning_channel_order", order, CHANNEL_ORDERS)
        require_positive("ControlNet config", self, ("conditioning_channels",))
        if min(self.conditioning_embedding_out_channels, default=0) < 1:
            raise UserError(
                "ControlNet config: conditioning_embedding_out_channels="
                f"{self.conditioning_embedding_out_channels} must be at least 1"
            )
        try:
            _ = self.trunk
        except UserError as error:
            raise UserError(f"ControlNet config: {error}") from error

    @property
    def trunk(self) -> UNetConfig:
        """The UNet whose first half this is."""
        shared = {name: getattr(self, name) for name in _SHARED}
        return UNetConfig(up_block_types=("UpBlock2D",) * len(self.block_out_channels), **shared)

    @property
    def downscale(self) -> int:
        """Pixels of the picture per latent pixel along one side."""
        return 2 ** (len(self.conditioning_embedding_out_channels) - 1)


_SHARED = {field.name for field in dataclasses.fields(ControlNetConfig)} & {
    field.name for field in dataclasses.fields(UNetConfig)
}


class ConditionEmbedding(nn.Module):
    """Shrink the picture to the latents' size by 3x3 convolutions: [B H W 3] -> [B h w C]."""

    config: ControlNetConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        channels, dtype = self.config.conditioning_embedding_out_channels, self.dtype
        x = nn.silu(conv3x3(channels[0], dtype=dtype, name="conv_in")(image))
        for i, (before, after) in enumerate(zip(channels[:-1], channels[1:], strict=True)):
            x = nn.silu(conv3x3(before, dtype=dtype, name=f"blocks_{2 * i}")(x))
            halve = Conv(after, strides=2, dtype=dtype, name=f"blocks_{2 * i + 1}")
            x = nn.silu(halve(x))
        features = self.config.block_out_channels[0]
        return conv3x3(features, dtype=dtype, name="conv_out", zero=True)(x)


class ControlNet(nn.Module):
    """The network that turns a picture into residuals for a UNet.

    Attributes:
      config: its shape.
      dtype: compute type; parameters, norms' reductions and softmax stay float32.
    """

    config: ControlNetConfig
    dtype: DTypeLike = jnp.float32

    def _leave(self, x: jax.Array, name: str) -> jax.Array:
        """The 1x1 convolution, zero at first, through which features leave."""
        dense = Dense(x.shape[-1], dtype=self.dtype, kernel_init=zeros, name=name)
        pooled = self.config.global_pool_conditions
        return jnp.mean(dense(x), axis=(1, 2), keepdims=True) if pooled else dense(x)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B h w C"],
        timestep: Float[Array, " B"],
        context: Float[Array, "B T D"],
        image: Float[Array, "B H W c"],
        added: dict[str, jax.Array] | None = None,
    ) -> ControlResiduals:
        """What to add to the UNet's features, in the compute type.

        Args:
          x: noisy latents.
          timestep: as for the UNet.
          context: the text encoder's states.
          image: the picture, in [0, 1]; H = h `config.downscale`, W likewise.
          added: with addition_embed_type: `text_embeds` [B P] and `time_ids` [B 6].

        Raises:
          ValueError: the picture has another size than the latents, or `added` is missing or has
            no place.
        """
        config, factor = self.config, self.config.downscale
        if image.shape[1:3] != (x.shape[1] * factor, x.shape[2] * factor):
            raise ValueError(
                f"the picture {image.shape} should be {factor} times as large as the latents "
                f"{x.shape}"
            )
        blocks = Blocks(config.trunk, self.dtype)
        temb = time_embedding(config.trunk, self.dtype, timestep, added=added)
        context = context.astype(self.dtype)
        if config.controlnet_conditioning_channel_order == "bgr":
            image = image[..., ::-1]
        x = conv3x3(config.block_out_channels[0], dtype=self.dtype, name="conv_in")(x)
        x = x + ConditionEmbedding(config, self.dtype, name="controlnet_cond_embedding")(image)
        skips = [x]
        for level in range(len(config.block_out_channels)):
            x, new = DownBlock(blocks, level, name=f"down_blocks_{level}")(x, temb, context)
            skips += new
        x = MidBlock(blocks, name="mid_block")(x, temb, context)
        down = tuple(
            self._leave(skip, f"controlnet_down_blocks_{i}") for i, skip in enumerate(skips)
        )
        return ControlResiduals(down, self._leave(x, "controlnet_mid_block"))


def scale_residuals(
    residuals: ControlResiduals, weight: float | Float[Array, ""] | Float[Array, " B"]
) -> ControlResiduals:
    """Multiply by a weight, or by one for each image; it may be traced."""
    weight = jnp.asarray(weight)

    def scale(residual: jax.Array) -> jax.Array:
        factor = weight.reshape(-1, 1, 1, 1) if weight.ndim else weight
        return residual * factor.astype(residual.dtype)

    return jax.tree.map(scale, residuals)


def add_residuals(residuals: Sequence[ControlResiduals]) -> ControlResiduals:
    """The sum of what several ControlNets say."""
    return jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *residuals)


def controlnet_config(unet: UNetConfig, **options: Any) -> ControlNetConfig:
    """The shape of a ControlNet for a UNet.

    Args:
      unet: the shape of the UNet.
      **options: other fields of `ControlNetConfig`, such as `conditioning_channels`.
    """
    return ControlNetConfig(**{name: getattr(unet, name) for name in _SHARED} | options)


def copy_trunk(controlnet: dict[str, Any], unet: dict[str, Any]) -> dict[str, Any]:
    """A fresh ControlNet's parameters with those that it shares with its UNet copied from there.

    The rest, the picture's embedding and the zero convolutions, stays as initialised.
    """
    shared = {name: unet[name] for name in controlnet if name in unet and name.startswith(COPIED)}
    return {**controlnet, **shared}
