"""The conditional UNet of latent diffusion (Rombach et al. 2022; Podell et al. 2023).

One module covers small models of our own and, by configuration, the families of Stable Diffusion
that `unet_config` lists.

Axis legend: B batch, H height, W width, C channels, T text tokens, D text width, P width of the
pooled text.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxdiff.models.layers import conv3x3, group_norm
from jaxdiff.models.unet_blocks import Blocks, DownBlock, MidBlock, UpBlock, time_embedding
from jaxdiff.models.unet_config import UNetConfig

__all__ = ["ControlResiduals", "UNet", "UNetConfig"]


class ControlResiduals(NamedTuple):
    """What is added to a UNet's features (Zhang et al. 2023, eq. 2 and 4)."""

    down: tuple[jax.Array, ...]
    """One for each skip, in the order in which they come about: [B h w c], or [B 1 1 c]."""
    mid: jax.Array
    """For the output of the middle block: [B h w c], or [B 1 1 c]."""


class UNet(nn.Module):
    """The denoising network.

    Attributes:
      config: its shape.
      dtype: compute type; parameters, norms' reductions and softmax stay float32.
    """

    config: UNetConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W C"],
        timestep: Float[Array, " B"],
        context: Float[Array, "B T D"],
        added: dict[str, jax.Array] | None = None,
        dropout_keys: Key[Array, " B"] | None = None,
        *,
        residuals: ControlResiduals | None = None,
        class_labels: Int[Array, " B"] | None = None,
        guidance_cond: Float[Array, " B"] | None = None,
    ) -> Float[Array, "B H W out"]:
        """Predict from a noisy sample what the model was trained to predict, in float32.

        Args:
          x: noisy latents and, for some models, further channels behind them. An odd size is
            rounded up where it is halved, and cut again on the way up.
          timestep: the number that the process gives the network (0 to 999 for 1000 betas).
          context: the text encoder's states.
          added: with addition_embed_type: `text_embeds` [B P] and `time_ids` [B 6] (SDXL) or [B 5]
            (its refiner).
          dropout_keys: one per example, from which its dropout is drawn; None: no dropout.
          residuals: what ControlNets add, None for none.
          class_labels: with num_class_embeds: the class (the x4 upscaler: the noise level).
          guidance_cond: with time_cond_proj_dim: the guidance scale as users give it, 1 for none.

        Raises:
          ValueError: a condition is missing, or the network has no place for it.
        """
        config = self.config
        levels = range(len(config.block_out_channels))
        blocks = Blocks(config, self.dtype, dropout_keys)
        temb = time_embedding(
            config,
            self.dtype,
            timestep,
            added=added,
            class_labels=class_labels,
            guidance_cond=guidance_cond,
        )
        context = context.astype(self.dtype)
        x = conv3x3(config.block_out_channels[0], dtype=self.dtype, name="conv_in")(x)
        skips = [x]
        for level in levels:
            x, new = DownBlock(blocks, level, name=f"down_blocks_{level}")(x, temb, context)
            skips += new
        if config.mid_block_type is not None:
            x = MidBlock(blocks, name="mid_block")(x, temb, context)
        if residuals is not None:
            x, skips = _add(x, residuals.mid), _add_all(skips, residuals.down)
        count = config.layers_per_block + 1
        for i, level in enumerate(reversed(levels)):
            used, skips = skips[-count:], skips[:-count]
            size = skips[-1].shape[1:3] if skips else None
            x = UpBlock(blocks, level, name=f"up_blocks_{i}")(x, used, size, temb, context)
        norm = group_norm(
            config.norm_num_groups, config.norm_eps, dtype=self.dtype, name="conv_norm_out"
        )
        out = conv3x3(config.out_channels, dtype=self.dtype, name="conv_out", zero=True)
        return out(nn.silu(norm(x))).astype(jnp.float32)


def _add(x: jax.Array, residual: jax.Array) -> jax.Array:
    """x + residual, in the type of x."""
    return x + residual.astype(x.dtype)


def _add_all(skips: list[jax.Array], residuals: tuple[jax.Array, ...]) -> list[jax.Array]:
    if len(skips) != len(residuals):
        raise ValueError(f"this UNet has {len(skips)} skips; the ControlNet has {len(residuals)}")
    return [_add(skip, residual) for skip, residual in zip(skips, residuals, strict=True)]
