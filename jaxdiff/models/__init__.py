"""Networks as pure functional Flax (linen) modules: shapes in, shapes out.

Submodules carry the names that the Hugging Face ecosystem's checkpoints use (`down_blocks_0`,
`resnets_0`, `conv1`, ...), so that conversion is a table of a few patterns. One file holds a
network's configuration and its module.
"""

from jaxdiff.models.autoencoder import Autoencoder, AutoencoderConfig
from jaxdiff.models.controlnet import (
    ControlNet,
    ControlNetConfig,
    add_residuals,
    controlnet_config,
    copy_trunk,
    scale_residuals,
)
from jaxdiff.models.inception import InceptionConfig, InceptionOutput, InceptionV3
from jaxdiff.models.sentence import SentenceEncoder, SentenceEncoderConfig, SentenceOutput
from jaxdiff.models.shapes import (
    count_parameters,
    example_inputs,
    network,
    parameter_shapes,
)
from jaxdiff.models.text_encoder import TextEncoder, TextEncoderConfig, TextOutput
from jaxdiff.models.unet import ControlResiduals, UNet, UNetConfig
from jaxdiff.models.unet_config import Remat
from jaxdiff.models.vision import VisionEncoder, VisionEncoderConfig

__all__ = [
    "Autoencoder",
    "AutoencoderConfig",
    "ControlNet",
    "ControlNetConfig",
    "ControlResiduals",
    "InceptionConfig",
    "InceptionOutput",
    "InceptionV3",
    "Remat",
    "SentenceEncoder",
    "SentenceEncoderConfig",
    "SentenceOutput",
    "TextEncoder",
    "TextEncoderConfig",
    "TextOutput",
    "UNet",
    "UNetConfig",
    "VisionEncoder",
    "VisionEncoderConfig",
    "add_residuals",
    "controlnet_config",
    "copy_trunk",
    "count_parameters",
    "example_inputs",
    "network",
    "parameter_shapes",
    "scale_residuals",
]
