"""The conditional UNet of latent diffusion (Rombach et al. 2022; Podell et al. 2023).

One module covers small models of our own and, by configuration, Stable Diffusion 1.x, 2.x and
SDXL. The configuration's fields are those of a checkpoint's `unet/config.json`.

Axis legend: B batch, H height, W width, C channels, T text tokens, D text width, E time width.
"""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from jaxdiff.errors import UserError, choose
from jaxdiff.models.attention import KERNELS
from jaxdiff.models.checks import require_groups, require_positive
from jaxdiff.models.layers import (
    Downsample,
    MLPEmbedding,
    ResnetBlock,
    SpatialTransformer,
    Upsample,
    conv3x3,
    group_norm,
    sinusoidal_embedding,
)

_BLOCK_TYPES = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
_AT_LEAST_ONE = (
    "sample_size",
    "in_channels",
    "out_channels",
    "layers_per_block",
    "cross_attention_dim",
)


@dataclass(frozen=True)
class UNetConfig:
    """The shape of a UNet; defaults are Stable Diffusion 1.x."""

    sample_size: int = 64
    """Height and width, in latent pixels, of what it was trained on."""
    in_channels: int = 4
    """Channels in."""
    out_channels: int = 4
    """Channels out."""
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    """Per level, finest first: with text attention (CrossAttnDownBlock2D) or without."""
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    """Per level, coarsest first."""
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    """Channels of each level."""
    layers_per_block: int = 2
    """Residual blocks of a level on the way down; one more on the way up."""
    cross_attention_dim: int = 768
    """Width of the text encoder's output."""
    attention_head_dim: int | tuple[int, ...] = 8
    """Number of attention heads, of all levels or of each. (Checkpoints have always called the
    number of heads by this name.)"""
    transformer_layers_per_block: int | tuple[int, ...] = 1
    """Depth of the transformers, of all levels or of each."""
    norm_num_groups: int = 32
    """Groups of the group norms."""
    norm_eps: float = 1e-5
    """Epsilon of the residual blocks' group norms."""
    use_linear_projection: bool = False
    """Whether a checkpoint stores the transformers' projections as matrices or 1x1 kernels."""
    addition_embed_type: str | None = None
    """None, or "text_time": SDXL's pooled text and size conditioning."""
    addition_time_embed_dim: int | None = None
    """Width of each embedded size (SDXL: 256)."""
    projection_class_embeddings_input_dim: int | None = None
    """Width of pooled text and embedded sizes together (SDXL: 2816)."""
    dropout: float = 0.0
    """Dropout rate in the residual blocks while training."""
    remat: bool = False
    """Recompute blocks in the backward pass instead of storing them: less memory, more time."""
    attention: str = "auto"
    """Attention kernel: auto, einsum or cudnn."""

    def __post_init__(self) -> None:
        """Refuse levels that do not match, and numbers that make no network."""
        levels = len(self.block_out_channels)
        for name in ("down_block_types", "up_block_types"):
            if len(getattr(self, name)) != levels:
                raise UserError(
                    f"UNet config: {name} has {len(getattr(self, name))} entries, "
                    f"block_out_channels has {levels}; give one per level"
                )
            for kind in getattr(self, name):
                choose(f"{name} entry", kind, _BLOCK_TYPES[name])
        for name in ("attention_head_dim", "transformer_layers_per_block"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != levels:
                raise UserError(f"UNet config: {name} needs {levels} entries, got {len(value)}")
        choose("unet.attention", self.attention, ("auto", *KERNELS))
        if not 0 <= self.dropout < 1:
            raise UserError(f"UNet config: dropout={self.dropout} is not in [0, 1)")
        if (self.addition_embed_type is not None) and not (
            self.addition_time_embed_dim and self.projection_class_embeddings_input_dim
        ):
            raise UserError(
                "UNet config: addition_embed_type needs addition_time_embed_dim and "
                "projection_class_embeddings_input_dim"
            )
        require_positive("UNet config", self, _AT_LEAST_ONE)
        require_groups("UNet config", self.block_out_channels, self.norm_num_groups)
        for level in self._attending():
            heads, channels = self.heads(level), self.block_out_channels[level]
            if heads < 1 or channels % heads or self.depth(level) < 1:
                raise UserError(
                    f"UNet config: level {level} has {heads} heads (attention_head_dim) and "
                    f"{self.depth(level)} transformer layers for {channels} channels; heads must "
                    "divide the channels, and there is at least one layer"
                )

    def _attending(self) -> set[int]:
        """Levels with text attention; the coarsest has it in the middle block."""
        last = len(self.block_out_channels) - 1
        down = {i for i, kind in enumerate(self.down_block_types) if kind.startswith("Cross")}
        up = {last - i for i, kind in enumerate(self.up_block_types) if kind.startswith("Cross")}
        return down | up | {last}

    def heads(self, level: int) -> int:
        """Attention heads of a level."""
        value = self.attention_head_dim
        return value[level] if isinstance(value, tuple) else value

    def depth(self, level: int) -> int:
        """Transformer blocks of a level's attention."""
        value = self.transformer_layers_per_block
        return value[level] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Blocks:
    """The two bricks of a UNet, with what all of them share filled in."""

    config: UNetConfig
    dtype: DTypeLike
    dropout_keys: jax.Array | None

    def resnet(self, features: int, name: str) -> Any:
        """A residual block: (x, temb) -> x."""
        config = self.config
        cls = nn.remat(ResnetBlock) if config.remat else ResnetBlock
        block = cls(
            features,
            config.norm_num_groups,
            config.norm_eps,
            config.dropout,
            zero_init=True,
            dtype=self.dtype,
            name=name,
        )
        return lambda x, temb: block(x, temb, self.dropout_keys)

    def transformer(self, level: int, name: str) -> Any:
        """Text attention: (x, context) -> x."""
        config = self.config
        cls = nn.remat(SpatialTransformer) if config.remat else SpatialTransformer
        return cls(
            config.heads(level),
            config.depth(level),
            config.norm_num_groups,
            config.attention,
            dtype=self.dtype,
            name=name,
        )


class DownBlock(nn.Module):
    """One level on the way down: [B H W C] -> half the size, and all that the skips need."""

    blocks: Blocks
    level: int

    @nn.compact
    def __call__(
        self, x: jax.Array, temb: jax.Array, context: jax.Array
    ) -> tuple[jax.Array, list[jax.Array]]:
        config, skips = self.blocks.config, []
        features = config.block_out_channels[self.level]
        for i in range(config.layers_per_block):
            x = self.blocks.resnet(features, f"resnets_{i}")(x, temb)
            if config.down_block_types[self.level] == "CrossAttnDownBlock2D":
                x = self.blocks.transformer(self.level, f"attentions_{i}")(x, context)
            skips.append(x)
        if self.level < len(config.block_out_channels) - 1:
            x = Downsample(features, dtype=self.blocks.dtype, name="downsamplers_0")(x)
            skips.append(x)
        return x, skips


class MidBlock(nn.Module):
    """The coarsest level: residual block, text attention, residual block: [B h w C] -> the same."""

    blocks: Blocks

    @nn.compact
    def __call__(self, x: jax.Array, temb: jax.Array, context: jax.Array) -> jax.Array:
        level = len(self.blocks.config.block_out_channels) - 1
        features = self.blocks.config.block_out_channels[level]
        x = self.blocks.resnet(features, "resnets_0")(x, temb)
        x = self.blocks.transformer(level, "attentions_0")(x, context)
        return self.blocks.resnet(features, "resnets_1")(x, temb)


class UpBlock(nn.Module):
    """One level on the way up, [B H W C] -> twice the size, but for the finest level.

    The `skips` [B H W *], the last used first, are joined by channel.
    """

    blocks: Blocks
    level: int

    @nn.compact
    def __call__(
        self, x: jax.Array, skips: list[jax.Array], temb: jax.Array, context: jax.Array
    ) -> jax.Array:
        config = self.blocks.config
        features = config.block_out_channels[self.level]
        block_type = config.up_block_types[len(config.block_out_channels) - 1 - self.level]
        for i in range(config.layers_per_block + 1):
            x = jnp.concatenate([x, skips.pop()], axis=-1)
            x = self.blocks.resnet(features, f"resnets_{i}")(x, temb)
            if block_type == "CrossAttnUpBlock2D":
                x = self.blocks.transformer(self.level, f"attentions_{i}")(x, context)
        if self.level > 0:
            x = Upsample(features, dtype=self.blocks.dtype, name="upsamplers_0")(x)
        return x


class UNet(nn.Module):
    """The denoising network.

    Attributes:
      config: its shape.
      dtype: compute type; parameters, norms' reductions and softmax stay float32.
    """

    config: UNetConfig
    dtype: DTypeLike = jnp.float32

    def _time_embedding(self, timestep: jax.Array, added: dict[str, jax.Array] | None) -> jax.Array:
        """Embed the timestep, and SDXL's pooled text and sizes where the config has them: [B E]."""
        config = self.config
        width = 4 * config.block_out_channels[0]
        sinusoid = sinusoidal_embedding(timestep, config.block_out_channels[0])
        temb = MLPEmbedding(width, self.dtype, name="time_embedding")(sinusoid)
        if config.addition_embed_type is None:
            return temb
        if added is None:
            raise ValueError("this UNet needs added={'text_embeds', 'time_ids'} (SDXL)")
        ids = added["time_ids"]
        sizes = sinusoidal_embedding(ids.reshape(-1), config.addition_time_embed_dim)
        joined = jnp.concatenate([added["text_embeds"], sizes.reshape(ids.shape[0], -1)], -1)
        return temb + MLPEmbedding(width, self.dtype, name="add_embedding")(joined)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W C"],
        timestep: Float[Array, " B"],
        context: Float[Array, "B T D"],
        added: dict[str, jax.Array] | None = None,
        dropout_keys: Key[Array, " B"] | None = None,
    ) -> Float[Array, "B H W out"]:
        """Predict from a noisy sample what the model was trained to predict, in float32.

        Args:
          x: noisy latents; H and W divisible by 2^(levels - 1).
          timestep: the number that the process gives the network (0 to 999 for 1000 betas).
          context: the text encoder's states.
          added: SDXL only: `text_embeds` [B P] and `time_ids` [B 6].
          dropout_keys: one per example, from which its dropout is drawn; None: no dropout.
        """
        config = self.config
        levels = range(len(config.block_out_channels))
        blocks = Blocks(config, self.dtype, dropout_keys)
        temb = self._time_embedding(timestep, added)
        context = context.astype(self.dtype)
        x = conv3x3(config.block_out_channels[0], dtype=self.dtype, name="conv_in")(x)
        skips = [x]
        for level in levels:
            x, new = DownBlock(blocks, level, name=f"down_blocks_{level}")(x, temb, context)
            skips += new
        x = MidBlock(blocks, name="mid_block")(x, temb, context)
        for i, level in enumerate(reversed(levels)):
            count = config.layers_per_block + 1
            x = UpBlock(blocks, level, name=f"up_blocks_{i}")(x, skips[-count:], temb, context)
            del skips[-count:]
        norm = group_norm(
            config.norm_num_groups, config.norm_eps, dtype=self.dtype, name="conv_norm_out"
        )
        out = conv3x3(config.out_channels, dtype=self.dtype, name="conv_out", zero=True)
        return out(nn.silu(norm(x))).astype(jnp.float32)
