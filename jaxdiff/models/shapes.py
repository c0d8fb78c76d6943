"""What a network of a given shape is called with, and the parameters that it has."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxdiff.models.autoencoder import Autoencoder, AutoencoderConfig
from jaxdiff.models.controlnet import ControlNet, ControlNetConfig
from jaxdiff.models.inception import InceptionConfig, InceptionV3
from jaxdiff.models.sentence import SentenceEncoder, SentenceEncoderConfig
from jaxdiff.models.text_encoder import TextEncoder, TextEncoderConfig
from jaxdiff.models.unet import UNet, UNetConfig
from jaxdiff.models.vision import VisionEncoder, VisionEncoderConfig

NetworkConfig = (
    UNetConfig
    | ControlNetConfig
    | AutoencoderConfig
    | TextEncoderConfig
    | SentenceEncoderConfig
    | InceptionConfig
    | VisionEncoderConfig
)

_NETWORKS = {
    UNetConfig: UNet,
    ControlNetConfig: ControlNet,
    AutoencoderConfig: Autoencoder,
    TextEncoderConfig: TextEncoder,
    SentenceEncoderConfig: SentenceEncoder,
    InceptionConfig: InceptionV3,
    VisionEncoderConfig: VisionEncoder,
}


def network(config: NetworkConfig, dtype: DTypeLike = jnp.float32) -> nn.Module:
    """The network of a configuration."""
    return _NETWORKS[type(config)](config, dtype)


def example_inputs(config: NetworkConfig) -> dict[str, Any]:
    """Arguments that the network takes, by name, all zero and as small as they may be."""
    if isinstance(config, TextEncoderConfig):
        return {"ids": jnp.zeros((1, 1), jnp.int32)}
    if isinstance(config, SentenceEncoderConfig):
        return {"ids": jnp.zeros((1, 1), jnp.int32), "mask": jnp.ones((1, 1), bool)}
    if isinstance(config, InceptionConfig | VisionEncoderConfig):
        return {"x": jnp.zeros((1, config.image_size, config.image_size, 3))}
    if isinstance(config, AutoencoderConfig):
        size = config.downscale
        return {
            "x": jnp.zeros((1, size, size, config.in_channels)),
            "noise": jnp.zeros((1, 1, 1, config.latent_channels)),
        }
    size = 2 ** (len(config.block_out_channels) - 1)
    inputs = {
        "x": jnp.zeros((1, size, size, config.in_channels)),
        "timestep": jnp.zeros(1),
        "context": jnp.zeros((1, 1, config.cross_attention_dim)),
    }
    if config.addition_embed_type is not None:
        # How many sizes there are does not show in the parameters; here one.
        pooled = config.projection_class_embeddings_input_dim - config.addition_time_embed_dim
        inputs["added"] = {"text_embeds": jnp.zeros((1, pooled)), "time_ids": jnp.zeros((1, 1))}
    if isinstance(config, ControlNetConfig):
        side = size * config.downscale
        return inputs | {"image": jnp.zeros((1, side, side, config.conditioning_channels))}
    if config.num_class_embeds is not None:
        inputs["class_labels"] = jnp.zeros(1, jnp.int32)
    if config.time_cond_proj_dim is not None:
        inputs["guidance_cond"] = jnp.zeros(1)
    return inputs


def parameter_shapes(config: NetworkConfig) -> dict[str, Any]:
    """The tree of `ShapeDtypeStruct` that a network of this shape has; allocates nothing."""

    def start() -> dict[str, Any]:
        return network(config).init(jax.random.key(0), **example_inputs(config))["params"]

    return jax.eval_shape(start)


def count_parameters(tree: Any) -> int:
    """How many numbers a tree of arrays, or of their shapes, holds.

    >>> count_parameters({"kernel": jnp.zeros((3, 4)), "bias": jnp.zeros(4)})
    16
    """
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
