"""The levels of a UNet on the way down, at the bottom and on the way up.

The UNet is made of them, and so is a ControlNet, which is its first half.

Axis legend: B batch, H height, W width, C channels, T text tokens, D text width, E time width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxdiff.models.embeddings import MLPEmbedding, guidance_embedding, sinusoidal_embedding
from jaxdiff.models.layers import (
    Downsample,
    ResnetBlock,
    SpatialTransformer,
    Upsample,
)
from jaxdiff.models.unet_config import UNetConfig


def _is_product(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name in ("dot_general", "conv_general_dilated")


_REMAT: dict[str, Callable[[Any], Any]] = {
    "none": lambda block: block,
    "products": partial(nn.remat, policy=_is_product),
    "blocks": nn.remat,
}
"""A value of `UNetConfig.remat` -> a class of blocks that computes again what it says."""


@dataclass(frozen=True)
class Blocks:
    """The two bricks of a UNet, with what all of them share filled in."""

    config: UNetConfig
    dtype: DTypeLike
    dropout_keys: jax.Array | None = None

    def resnet(self, features: int, name: str) -> Any:
        """A residual block: (x, temb) -> x."""
        config = self.config
        block = _REMAT[config.remat](ResnetBlock)(
            features,
            config.norm_num_groups,
            config.norm_eps,
            config.dropout,
            zero_init=True,
            dtype=self.dtype,
            name=name,
        )
        return lambda x, temb: block(x, temb, self.dropout_keys)

    def transformer(self, level: int, name: str, *, only_cross: bool = False) -> Any:
        """Text attention: (x, context) -> x."""
        config = self.config
        return _REMAT[config.remat](SpatialTransformer)(
            config.heads(level),
            config.depth(level),
            config.norm_num_groups,
            config.attention,
            only_cross,
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
        config, level, skips = self.blocks.config, self.level, []
        features, only_cross = config.block_out_channels[level], config.crosses_only(level)
        for i in range(config.layers_per_block):
            x = self.blocks.resnet(features, f"resnets_{i}")(x, temb)
            if config.down_block_types[level] == "CrossAttnDownBlock2D":
                attend = self.blocks.transformer(level, f"attentions_{i}", only_cross=only_cross)
                x = attend(x, context)
            skips.append(x)
        if level < len(config.block_out_channels) - 1:
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
    """One level on the way up, [B H W C] -> [B *size C]; the finest level (size None) keeps it.

    The `skips` [B H W *], the last used first, are joined by channel.
    """

    blocks: Blocks
    level: int

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        skips: list[jax.Array],
        size: tuple[int, int] | None,
        temb: jax.Array,
        context: jax.Array,
    ) -> jax.Array:
        config, level = self.blocks.config, self.level
        features, only_cross = config.block_out_channels[level], config.crosses_only(level)
        block_type = config.up_block_types[len(config.block_out_channels) - 1 - level]
        for i in range(config.layers_per_block + 1):
            x = jnp.concatenate([x, skips.pop()], axis=-1)
            x = self.blocks.resnet(features, f"resnets_{i}")(x, temb)
            if block_type == "CrossAttnUpBlock2D":
                attend = self.blocks.transformer(level, f"attentions_{i}", only_cross=only_cross)
                x = attend(x, context)
        if size is not None:
            x = Upsample(features, dtype=self.blocks.dtype, name="upsamplers_0")(x, size)
        return x


def time_embedding(
    config: UNetConfig,
    dtype: DTypeLike,
    timestep: jax.Array,
    *,
    added: dict[str, jax.Array] | None = None,
    class_labels: jax.Array | None = None,
    guidance_cond: jax.Array | None = None,
) -> jax.Array:
    """Embed the timestep and what else the config has a place for: [B E].

    Called in a module's `__call__`; the parameters are that module's.

    Raises:
      ValueError: a condition is missing, or the network has no place for it.
    """
    _require("added={'text_embeds', 'time_ids'}", config.addition_embed_type, added)
    _require("class_labels", config.num_class_embeds, class_labels)
    _require("guidance_cond", config.time_cond_proj_dim, guidance_cond)
    width = 4 * config.block_out_channels[0]
    sinusoid = sinusoidal_embedding(timestep, config.block_out_channels[0])
    guidance = None
    if guidance_cond is not None:
        guidance = guidance_embedding(guidance_cond, config.time_cond_proj_dim)
    temb = MLPEmbedding(width, dtype, name="time_embedding")(sinusoid, guidance)
    if class_labels is not None:
        table = nn.Embed(config.num_class_embeds, width, dtype=dtype, name="class_embedding")
        temb = temb + table(class_labels)
    if added is not None:
        ids = added["time_ids"]
        sizes = sinusoidal_embedding(ids.reshape(-1), config.addition_time_embed_dim)
        joined = jnp.concatenate([added["text_embeds"], sizes.reshape(ids.shape[0], -1)], -1)
        temb = temb + MLPEmbedding(width, dtype, name="add_embedding")(joined)
    return temb


def _require(name: str, wanted: object, given: object) -> None:
    """Refuse a condition that is missing, or one that would be ignored."""
    if (wanted is None) != (given is None):
        raise ValueError(f"this network {'takes no' if wanted is None else 'needs'} {name}")
