"""The CLIP picture encoder (Radford et al. 2021, section 2.4): a vision transformer.

Dosovitskiy et al. 2021 with a layer norm before the first layer. The layers are those of the text
encoder without its causal mask, and the configuration's fields those of a checkpoint's
`vision_config`.

Axis legend: B pictures, S side in pixels, P side of a patch, T patches and a class token, D width.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from jaxdiff.errors import choose
from jaxdiff.models.checks import require_divides, require_positive
from jaxdiff.models.linear import Dense
from jaxdiff.models.norms import LayerNorm
from jaxdiff.models.resizing import bicubic_crop
from jaxdiff.models.text_encoder import ACTIVATIONS, Layers

_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the pictures that CLIP was trained on, in [0, 1]
_STD = (0.26862954, 0.26130258, 0.27577711)
_AT_LEAST_ONE = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
    "projection_dim",
)


@dataclass(frozen=True)
class VisionEncoderConfig:
    """The shape of a picture encoder; defaults are CLIP's ViT-B/32."""

    hidden_size: int = 768
    """Width D."""
    intermediate_size: int = 3072
    """Width of the feed-forward layers."""
    num_hidden_layers: int = 12
    """Layers."""
    num_attention_heads: int = 12
    """Heads; divides the width."""
    image_size: int = 224
    """S."""
    patch_size: int = 32
    """P; divides S."""
    hidden_act: str = "quick_gelu"
    """quick_gelu (OpenAI) or gelu (OpenCLIP)."""
    layer_norm_eps: float = 1e-5
    """Epsilon of the layer norms."""
    projection_dim: int = 512
    """Width of the embedding that texts share."""

    def __post_init__(self) -> None:
        """Refuse an unknown activation, and numbers that make no network."""
        choose("hidden_act", self.hidden_act, ACTIVATIONS)
        require_positive("picture encoder config", self, _AT_LEAST_ONE)
        for part, whole in (("num_attention_heads", "hidden_size"), ("patch_size", "image_size")):
            require_divides("picture encoder config", self, part, whole)


class PatchEmbedding(nn.Module):
    """A dense layer without bias over each patch: [B S S 3] -> [B T-1 D]."""

    features: int
    patch: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        side, channels = self.patch, x.shape[-1]
        init = nn.initializers.normal(0.02)
        kernel = self.param("kernel", init, (side, side, channels, self.features))
        rows, columns = x.shape[1] // side, x.shape[2] // side
        patches = x.reshape(x.shape[0], rows, side, columns, side, channels).swapaxes(2, 3)
        flat = patches.reshape(x.shape[0], rows * columns, -1).astype(self.dtype)
        return flat @ kernel.reshape(-1, self.features).astype(self.dtype)


class PictureEmbeddings(nn.Module):
    """A class token and the patches, with their positions: [B S S 3] -> [B T D]."""

    config: VisionEncoderConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        config, width, init = self.config, self.config.hidden_size, nn.initializers.normal(0.02)
        patches = PatchEmbedding(width, config.patch_size, self.dtype, name="patch_embedding")(x)
        token = self.param("class_embedding", init, (width,)).astype(self.dtype)
        first = jnp.broadcast_to(token, (x.shape[0], 1, width))
        tokens = jnp.concatenate([first, patches], axis=1)
        count = (config.image_size // config.patch_size) ** 2 + 1
        positions = nn.Embed(
            count, width, dtype=self.dtype, embedding_init=init, name="position_embedding"
        )
        return tokens + positions(jnp.arange(count))[None]


class VisionEncoder(nn.Module):
    """The picture encoder, of pictures as `prepare` makes them.

    Attributes:
      config: its shape.
      dtype: compute type; parameters, norms' reductions and softmax stay float32.
    """

    config: VisionEncoderConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B S S 3"]) -> Float[Array, "B E"]:
        """Embeddings [B E], float32, E = projection_dim; not scaled to unit length."""
        config = self.config

        def norm(name: str) -> LayerNorm:
            return LayerNorm(config.layer_norm_eps, dtype=self.dtype, name=name)

        h = PictureEmbeddings(config, self.dtype, name="embeddings")(x)
        # "layrnorm" is how every checkpoint spells it.
        h = Layers(config, self.dtype, causal=False, name="encoder")(norm("pre_layrnorm")(h))[-1]
        pooled = norm("post_layernorm")(h[:, 0])
        project = Dense(
            config.projection_dim, use_bias=False, dtype=self.dtype, name="visual_projection"
        )
        return project(pooled).astype(jnp.float32)


def prepare(
    config: VisionEncoderConfig, images: UInt8[Array, "B H W 3"]
) -> Float[Array, "B S S 3"]:
    """Pictures of any size as CLIP wants them: bicubic, centre crop, its own mean and deviation."""
    pixels = bicubic_crop(images, config.image_size) / 255.0
    return (pixels - jnp.array(_MEAN)) / jnp.array(_STD)
