"""A sentence encoder: BERT (Devlin et al. 2019), whose states are averaged over a text's tokens.

Post-norm, not causal, exact GELU. The mean of the last states, scaled to unit length, is the
embedding of Reimers & Gurevych 2019 (Sentence-BERT, section 3), by which texts of one meaning are
near, whatever their words. The configuration's fields are those of a checkpoint's `config.json`.

A UNet reads the states themselves. Those of padding are zero: BERT computes some there, but nothing
ever trained them. To cross attention a zero is a key that any query may turn to for nothing.

Axis legend: B texts, T tokens, D width, N heads.
"""

from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxdiff.errors import choose
from jaxdiff.models.attention import einsum_attention
from jaxdiff.models.checks import require_divides, require_positive
from jaxdiff.models.linear import Dense
from jaxdiff.models.norms import LayerNorm
from jaxdiff.models.text_encoder import ACTIVATIONS

PAD_ID = 0  # of [PAD] in every published vocabulary

_AT_LEAST_ONE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "type_vocab_size",
)


@dataclass(frozen=True)
class SentenceEncoderConfig:
    """The shape of a sentence encoder; defaults are all-MiniLM-L6-v2."""

    vocab_size: int = 30522
    """Entries of the token table."""
    hidden_size: int = 384
    """Width D."""
    intermediate_size: int = 1536
    """Width of the feed-forward layers."""
    num_hidden_layers: int = 6
    """Layers."""
    num_attention_heads: int = 12
    """Heads N; divides the width."""
    max_position_embeddings: int = 512
    """Tokens T at the most."""
    type_vocab_size: int = 2
    """Kinds of segments; all tokens are of the first."""
    hidden_act: str = "gelu"
    """gelu, or CLIP's quick_gelu."""
    layer_norm_eps: float = 1e-12
    """Epsilon of the layer norms."""

    def __post_init__(self) -> None:
        """Refuse an unknown activation, and numbers that make no network."""
        choose("hidden_act", self.hidden_act, ACTIVATIONS)
        require_positive("sentence encoder config", self, _AT_LEAST_ONE)
        require_divides("sentence encoder config", self, "num_attention_heads", "hidden_size")


class SentenceOutput(NamedTuple):
    """What a sentence encoder says of texts, float32."""

    last_hidden: jax.Array
    """[B T D], of every token; zero at padding."""
    embedding: jax.Array
    """[B D], of unit length: their mean over the tokens that count."""


class Projections(nn.Module):
    """The attention of each token to those that count: [B T D], [B T] -> [B T D]."""

    config: SentenceEncoderConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        batch, tokens, width = x.shape
        heads = self.config.num_attention_heads
        q, k, v = (
            Dense(width, dtype=self.dtype, name=name)(x).reshape(batch, tokens, heads, -1)
            for name in ("query", "key", "value")
        )
        seen = jnp.broadcast_to(mask[:, None, None], (batch, 1, tokens, tokens))
        return einsum_attention(q, k, v, seen).reshape(x.shape)


class Residual(nn.Module):
    """A dense layer, added to what was there, and the norm of the sum: -> [B T D]."""

    config: SentenceEncoderConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        h = Dense(x.shape[-1], dtype=self.dtype, name="dense")(h)
        return LayerNorm(self.config.layer_norm_eps, dtype=self.dtype, name="LayerNorm")(x + h)


class Attention(nn.Module):
    """Self-attention with its residual: [B T D], [B T] -> [B T D]."""

    config: SentenceEncoderConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        h = Projections(self.config, self.dtype, name="self")(x, mask)
        return Residual(self.config, self.dtype, name="output")(h, x)


class Wide(nn.Module):
    """The dense layer between the two widths, and its activation: [B T D] -> [B T wide]."""

    config: SentenceEncoderConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = Dense(self.config.intermediate_size, dtype=self.dtype, name="dense")(x)
        return ACTIVATIONS[self.config.hidden_act](h)


class Layer(nn.Module):
    """Attention and feed-forward, each residual and then normed: [B T D], [B T] -> [B T D]."""

    config: SentenceEncoderConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = Attention(self.config, self.dtype, name="attention")(x, mask)
        h = Wide(self.config, self.dtype, name="intermediate")(x)
        return Residual(self.config, self.dtype, name="output")(h, x)


class Layers(nn.Module):
    """The stack of layers: [B T D], [B T] -> [B T D]."""

    config: SentenceEncoderConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        for i in range(self.config.num_hidden_layers):
            x = Layer(self.config, self.dtype, name=f"layer_{i}")(x, mask)
        return x


class Embeddings(nn.Module):
    """Token, position and segment embeddings, summed and normed: ids [B T] -> [B T D]."""

    config: SentenceEncoderConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        config = self.config

        def table(rows: int, name: str) -> nn.Embed:
            init = nn.initializers.normal(0.02)
            return nn.Embed(
                rows, config.hidden_size, dtype=self.dtype, embedding_init=init, name=name
            )

        x = table(config.vocab_size, "word_embeddings")(ids)
        places = table(config.max_position_embeddings, "position_embeddings")
        x = x + places(jnp.arange(ids.shape[1]))[None]
        x = x + table(config.type_vocab_size, "token_type_embeddings")(jnp.zeros_like(ids))
        return LayerNorm(config.layer_norm_eps, dtype=self.dtype, name="LayerNorm")(x)


class SentenceEncoder(nn.Module):
    """The sentence encoder.

    Attributes:
      config: its shape.
      dtype: compute type; parameters, norms' reductions and softmax stay float32.
    """

    config: SentenceEncoderConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, ids: Int[Array, "B T"], mask: Bool[Array, "B T"] | None = None
    ) -> SentenceOutput:
        """Encode token ids; `mask` says which count and are no padding, at least one of a text.

        Without one, all count but `PAD_ID`.
        """
        mask = ids != PAD_ID if mask is None else mask
        x = Embeddings(self.config, self.dtype, name="embeddings")(ids)
        x = Layers(self.config, self.dtype, name="encoder")(x, mask)
        counts = mask[..., None].astype(jnp.float32)
        states: Float[Array, "B T D"] = x.astype(jnp.float32) * counts
        mean = jnp.sum(states, axis=1) / jnp.sum(counts, axis=1)
        return SentenceOutput(states, mean / jnp.linalg.norm(mean, axis=-1, keepdims=True))
