"""Layers that the UNet and the autoencoder share.

Axis legend: B batch, H height, W width, C channels, T text tokens, E width of the time embedding.
Parameters are float32; `dtype` is what a layer computes in; norms reduce in float32.
"""

import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Key

from jaxdiff.models.attention import Attention
from jaxdiff.models.linear import Conv, Dense, default_init, zeros
from jaxdiff.models.norms import GroupNorm, LayerNorm


def conv3x3(features: int, *, dtype: DTypeLike, name: str, zero: bool = False) -> Conv:
    """A 3x3 convolution, padding 1; `zero` starts it at zero, so that its branch begins as 0."""
    init = zeros if zero else default_init
    return Conv(features, dtype=dtype, kernel_init=init, name=name)


def group_norm(groups: int, epsilon: float, *, dtype: DTypeLike, name: str) -> GroupNorm:
    """Group normalisation over H, W and C / groups channels."""
    return GroupNorm(groups, epsilon, dtype=dtype, name=name)


class ExampleDropout(nn.Module):
    """Zero a share `rate` of an example's values, scale the others by 1 / (1 - rate): [B ...].

    (Srivastava et al. 2014, in the inverted form.) The mask of example b is drawn from keys[b] and
    the module's path alone: it follows the example to any place, batch or device, and differs from
    layer to layer.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, keys: Key[Array, " B"] | None) -> jax.Array:
        if keys is None or self.rate == 0:
            return x
        layer, keep = zlib.crc32("/".join(self.path).encode()), 1.0 - self.rate

        def draw(key: jax.Array) -> jax.Array:
            return jax.random.bernoulli(jax.random.fold_in(key, layer), keep, x.shape[1:])

        return jnp.where(jax.vmap(draw)(keys), x / keep, jnp.zeros_like(x))


class ResnetBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))) + time))): [B H W C], [B E] -> [B H W features].

    Attributes:
      features: channels out; where they differ from those in, the shortcut is a 1x1 projection.
      groups, epsilon: of both group norms (Wu & He 2018).
      dropout: rate before the second convolution, where a call is given `dropout_keys`.
      zero_init: start the second convolution at zero (the block begins as its shortcut).
    """

    features: int
    groups: int = 32
    epsilon: float = 1e-5
    dropout: float = 0.0
    zero_init: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        temb: jax.Array | None = None,
        dropout_keys: Key[Array, " B"] | None = None,
    ) -> jax.Array:
        h = nn.silu(group_norm(self.groups, self.epsilon, dtype=self.dtype, name="norm1")(x))
        h = conv3x3(self.features, dtype=self.dtype, name="conv1")(h)
        if temb is not None:
            shift = Dense(self.features, dtype=self.dtype, name="time_emb_proj")(nn.silu(temb))
            h = h + shift[:, None, None, :]
        h = nn.silu(group_norm(self.groups, self.epsilon, dtype=self.dtype, name="norm2")(h))
        h = ExampleDropout(self.dropout, name="drop")(h, dropout_keys)
        h = conv3x3(self.features, dtype=self.dtype, name="conv2", zero=self.zero_init)(h)
        if x.shape[-1] != self.features:
            # A 1x1 convolution written as a dense layer: the same sum, far faster on CPUs.
            x = Dense(self.features, dtype=self.dtype, name="conv_shortcut")(x)
        return x + h


class Downsample(nn.Module):
    """Halve H and W by a 3x3 convolution of stride 2: [B H W C] -> [B H/2 W/2 features].

    Attributes:
      pad_after: pad one row and column at the end only (the autoencoder), not on every side.
    """

    features: int
    pad_after: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        pad = ((0, 1), (0, 1)) if self.pad_after else ((1, 1), (1, 1))
        conv = Conv(self.features, strides=2, padding=pad, dtype=self.dtype, name="conv")
        return conv(x)


class Upsample(nn.Module):
    """Nearest neighbour, then a 3x3 convolution: [B H W C] -> [B 2H 2W features].

    A `size` one smaller than twice H or W cuts the last row or column before the convolution.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, size: tuple[int, int] | None = None) -> jax.Array:
        x = x.repeat(2, axis=1).repeat(2, axis=2)
        if size is not None:
            x = x[:, : size[0], : size[1]]
        return conv3x3(self.features, dtype=self.dtype, name="conv")(x)


class GEGLU(nn.Module):
    """a * gelu(b) with [a, b] = x W (Shazeer 2020, eq. 6): [... C] -> [... features]."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        a, b = jnp.split(Dense(2 * self.features, dtype=self.dtype, name="proj")(x), 2, -1)
        return a * nn.gelu(b, approximate=False)


class FeedForward(nn.Module):
    """GEGLU to four times the width, and back: [B T C] -> [B T C]."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = GEGLU(4 * x.shape[-1], dtype=self.dtype, name="net_0")(x)
        return Dense(x.shape[-1], dtype=self.dtype, name="net_2")(h)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward, each pre-norm and residual.

    [B N C] -> [B N C], with a context [B T D]. With `only_cross` the first attention, too, is over
    the context.
    """

    heads: int
    kernel: str = "auto"
    only_cross: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        def norm(name: str) -> LayerNorm:
            return LayerNorm(1e-5, dtype=self.dtype, name=name)

        def attention(name: str) -> Attention:
            return Attention(self.heads, kernel=self.kernel, dtype=self.dtype, name=name)

        first = context if self.only_cross else None
        x = x + attention("attn1")(norm("norm1")(x), first)
        x = x + attention("attn2")(norm("norm2")(x), context)
        return x + FeedForward(dtype=self.dtype, name="ff")(norm("norm3")(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a feature map, residual (Rombach et al. 2022, 3.3).

    [B H W C], context [B T D] -> [B H W C]. The output projection starts at zero.
    """

    heads: int
    depth: int = 1
    groups: int = 32
    kernel: str = "auto"
    only_cross: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        h = group_norm(self.groups, 1e-6, dtype=self.dtype, name="norm")(x)
        h = Dense(channels, dtype=self.dtype, name="proj_in")(h)
        h = h.reshape(batch, height * width, channels)
        for i in range(self.depth):
            name = f"transformer_blocks_{i}"
            block = TransformerBlock(
                self.heads, self.kernel, self.only_cross, dtype=self.dtype, name=name
            )
            h = block(h, context)
        h = Dense(channels, dtype=self.dtype, kernel_init=zeros, name="proj_out")(h)
        return x + h.reshape(x.shape)


class SelfAttention2D(nn.Module):
    """Group norm and attention over the pixels of a feature map, residual: [B H W C]."""

    heads: int = 1
    groups: int = 32
    kernel: str = "auto"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        h = group_norm(self.groups, 1e-6, dtype=self.dtype, name="group_norm")(x)
        h = h.reshape(batch, height * width, channels)
        attend = Attention(self.heads, qkv_bias=True, kernel=self.kernel, dtype=self.dtype)
        # The projections stand in this module's own scope (to_q, to_k, ...), as checkpoints do.
        nn.share_scope(self, attend)
        return x + attend(h).reshape(x.shape)
