"""Networks as pure functional Flax (linen) modules: shapes in, shapes out.

Submodules carry the names that the Hugging Face ecosystem's checkpoints use (`down_blocks_0`,
`resnets_0`, `conv1`, ...), so that conversion is a table of a few patterns. One file holds a
network's configuration and its module.
"""

from jaxdiff.models.autoencoder import Autoencoder, AutoencoderConfig
from jaxdiff.models.text_encoder import TextEncoder, TextEncoderConfig, TextOutput
from jaxdiff.models.unet import UNet, UNetConfig

__all__ = [
    "Autoencoder",
    "AutoencoderConfig",
    "TextEncoder",
    "TextEncoderConfig",
    "TextOutput",
    "UNet",
    "UNetConfig",
]
