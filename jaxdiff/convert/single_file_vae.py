"""The autoencoder in a single file: its names, and its attention as 1x1 convolutions.

    encoder.down_blocks.1.resnets.0.conv1.weight    encoder.down.1.block.0.conv1.weight
    decoder.up_blocks.0.upsamplers.0.conv.weight    decoder.up.3.upsample.conv.weight

Levels of the decoder count from the finest there, from the coarsest in diffusers.
"""

import re
from collections.abc import Collection, Mapping

import numpy as np

from jaxdiff.convert.single_file_names import Names, below, renamed
from jaxdiff.models import AutoencoderConfig

PREFIX = "first_stage_model."

_VAE = {
    "encoder.conv_norm_out": "encoder.norm_out",
    "decoder.conv_norm_out": "decoder.norm_out",
}
_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_CONVOLUTIONS = r"attn_1\.(q|k|v|proj_out)\.weight$"


def vae_names(levels: int, layers: int) -> Names:
    """The names of an autoencoder's tensors: `levels` of `layers` residual blocks each."""
    names, shortcut = dict(_VAE), {"conv_shortcut": "nin_shortcut"}
    parts = ["encoder.conv_in", "encoder.conv_out", "decoder.conv_in", "decoder.conv_out"]
    names |= {name: name for name in (*parts, "quant_conv", "post_quant_conv")}
    for half, theirs, blocks, sampler in (
        ("encoder", "down", layers, "downsample"),
        ("decoder", "up", layers + 1, "upsample"),
    ):
        for level in range(levels):
            ours = f"{half}.{theirs}_blocks.{level}"
            there = f"{half}.{theirs}.{level if theirs == 'down' else levels - 1 - level}"
            for j in range(blocks):
                names[f"{ours}.resnets.{j}"] = f"{there}.block.{j}"
                names |= below(shortcut, f"{ours}.resnets.{j}", f"{there}.block.{j}")
            names[f"{ours}.{sampler}rs.0.conv"] = f"{there}.{sampler}.conv"
        for j in range(2):
            names[f"{half}.mid_block.resnets.{j}"] = f"{half}.mid.block_{j + 1}"
        names |= below(_VAE_ATTENTION, f"{half}.mid_block.attentions.0", f"{half}.mid.attn_1")
    return names


def find_vae_names(keys: Collection[str]) -> Names:
    """The names of an autoencoder's tensors, by those in a single file without a prefix."""
    found = [re.match(r"encoder\.down\.(\d+)\.block\.(\d+)\.", key) for key in keys]
    blocks = {(match[1], match[2]) for match in found if match}
    return vae_names(*(len({block[i] for block in blocks}) for i in range(2)))


def to_single_file(
    tensors: Mapping[str, np.ndarray], config: AutoencoderConfig
) -> dict[str, np.ndarray]:
    """Tensors by the names in a single file, without a prefix, from those of diffusers."""
    names = vae_names(len(config.block_out_channels), config.layers_per_block)
    named = {renamed(key, names) or key: array for key, array in tensors.items()}
    return {
        key: array[:, :, None, None] if re.search(_CONVOLUTIONS, key) else array
        for key, array in named.items()
    }
