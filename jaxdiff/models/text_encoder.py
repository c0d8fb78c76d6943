"""The CLIP text encoder (Radford et al. 2021, section 2.4): a causal, pre-norm transformer.

The configuration's fields are those of a checkpoint's `text_encoder/config.json`.

Axis legend: B batch, T tokens, D width, N heads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxdiff.errors import choose
from jaxdiff.models.attention import einsum_attention
from jaxdiff.models.checks import require_divides, require_positive
from jaxdiff.models.linear import Dense
from jaxdiff.models.norms import LayerNorm

_AT_LEAST_ONE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)


def quick_gelu(x: jax.Array) -> jax.Array:
    """x sigmoid(1.702 x), elementwise: the approximation that OpenAI's CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}


@dataclass(frozen=True)
class TextEncoderConfig:
    """The shape of a text encoder; defaults are Stable Diffusion 1.x (CLIP ViT-L/14)."""

    vocab_size: int = 49408
    """Entries of the token table."""
    hidden_size: int = 768
    """Width D."""
    intermediate_size: int = 3072
    """Width of the feed-forward layers."""
    num_hidden_layers: int = 12
    """Layers."""
    num_attention_heads: int = 12
    """Heads N; divides the width."""
    max_position_embeddings: int = 77
    """Tokens T at the most, start and end tokens counted."""
    hidden_act: str = "quick_gelu"
    """quick_gelu (OpenAI) or gelu (OpenCLIP)."""
    layer_norm_eps: float = 1e-5
    """Epsilon of the layer norms."""
    eos_token_id: int = 49407
    """The end token, where the pooled state is taken."""
    projection_dim: int | None = None
    """Width of the projected pooled state; None for an encoder without a projection."""

    def __post_init__(self) -> None:
        """Refuse an unknown activation, and numbers that make no network."""
        choose("hidden_act", self.hidden_act, ACTIVATIONS)
        require_positive("text encoder config", self, _AT_LEAST_ONE)
        require_divides("text encoder config", self, "num_attention_heads", "hidden_size")


@runtime_checkable
class TransformerConfig(Protocol):
    """What the layers want to know of a text or a picture encoder's configuration."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    hidden_act: str
    layer_norm_eps: float


class TextOutput(NamedTuple):
    """What a text encoder says of its tokens, float32."""

    last_hidden: jax.Array
    """[B T D], after the final layer norm."""
    pooled: jax.Array
    """[B D] at the first end token, or [B projection_dim] where the encoder projects."""
    hidden_states: tuple[jax.Array, ...]
    """[B T D] each: the embedding, then every layer's output before the final norm."""


class SelfAttention(nn.Module):
    """Multi-head self-attention, `causal` or over all tokens: [B T D] -> [B T D]."""

    heads: int
    dtype: DTypeLike
    causal: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, tokens, width = x.shape
        q, k, v = (
            Dense(width, dtype=self.dtype, name=name)(x).reshape(batch, tokens, self.heads, -1)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        mask = jnp.tril(jnp.ones((1, 1, tokens, tokens), bool)) if self.causal else None
        out = einsum_attention(q, k, v, mask).reshape(x.shape)
        return Dense(width, dtype=self.dtype, name="out_proj")(out)


class MLP(nn.Module):
    """Two dense layers: [B T D] -> [B T D]."""

    config: TransformerConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = Dense(self.config.intermediate_size, dtype=self.dtype, name="fc1")(x)
        h = ACTIVATIONS[self.config.hidden_act](h)
        return Dense(x.shape[-1], dtype=self.dtype, name="fc2")(h)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each pre-norm and residual: [B T D] -> [B T D]."""

    config: TransformerConfig
    dtype: DTypeLike
    causal: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        config, epsilon = self.config, self.config.layer_norm_eps
        h = LayerNorm(epsilon, dtype=self.dtype, name="layer_norm1")(x)
        attend = SelfAttention(
            config.num_attention_heads, self.dtype, self.causal, name="self_attn"
        )
        x = x + attend(h)
        h = LayerNorm(epsilon, dtype=self.dtype, name="layer_norm2")(x)
        return x + MLP(config, self.dtype, name="mlp")(h)


class Embeddings(nn.Module):
    """Token and position embeddings: ids [B T] -> [B T D]."""

    config: TextEncoderConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        def table(rows: int, std: float, name: str) -> nn.Embed:
            init = nn.initializers.normal(std)
            width = self.config.hidden_size
            return nn.Embed(rows, width, dtype=self.dtype, embedding_init=init, name=name)

        # Standard deviations as in CLIP's own initialisation.
        tokens = table(self.config.vocab_size, 0.02, "token_embedding")(ids)
        positions = table(self.config.max_position_embeddings, 0.01, "position_embedding")
        return tokens + positions(jnp.arange(ids.shape[1]))[None]


class Layers(nn.Module):
    """The stack of layers: [B T D] -> every layer's output, the input first."""

    config: TransformerConfig
    dtype: DTypeLike
    causal: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
        states = [x]
        for i in range(self.config.num_hidden_layers):
            layer = EncoderLayer(self.config, self.dtype, self.causal, name=f"layers_{i}")
            states.append(layer(states[-1]))
        return tuple(states)


class TextEncoder(nn.Module):
    """The text encoder.

    Attributes:
      config: its shape.
      dtype: compute type; parameters, norms' reductions and softmax stay float32.
    """

    config: TextEncoderConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array, "B T"]) -> TextOutput:
        """Encode token ids (T at most `max_position_embeddings`, each below `vocab_size`)."""
        config = self.config
        states = Layers(config, self.dtype, name="encoder")(
            Embeddings(config, self.dtype, name="embeddings")(ids)
        )
        norm = LayerNorm(config.layer_norm_eps, dtype=self.dtype, name="final_layer_norm")
        last: Float[Array, "B T D"] = norm(states[-1]).astype(jnp.float32)
        end = jnp.argmax(ids == config.eos_token_id, axis=1)
        pooled = jnp.take_along_axis(last, end[:, None, None], axis=1)[:, 0]
        if config.projection_dim is not None:
            project = Dense(
                config.projection_dim, use_bias=False, dtype=self.dtype, name="text_projection"
            )
            pooled = project(pooled).astype(jnp.float32)
        return TextOutput(last, pooled, tuple(s.astype(jnp.float32) for s in states))
