"""Configurations refuse numbers that make no network, before anything is compiled."""

import pytest

from jaxdiff.errors import UserError
from jaxdiff.models import AutoencoderConfig, ControlNetConfig, TextEncoderConfig, UNetConfig


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (UNetConfig, {"attention_head_dim": 7}, "7 heads"),
        (UNetConfig, {"attention_head_dim": (8, 8, 8, 0)}, "0 heads"),
        (UNetConfig, {"transformer_layers_per_block": 0}, "0 transformer layers"),
        (UNetConfig, {"norm_num_groups": 0}, "at least 1"),
        (UNetConfig, {"norm_num_groups": 7}, "do not divide"),
        (UNetConfig, {"attention": "flash"}, "unknown unet.attention 'flash'"),
        (UNetConfig, {"dropout": 1.0}, "dropout"),
        (UNetConfig, {"layers_per_block": 0}, "layers_per_block"),
        (UNetConfig, {"block_out_channels": (320,)}, "give one per level"),
        (UNetConfig, {"down_block_types": ("ResnetDownsampleBlock2D",) * 4}, "unknown"),
        (UNetConfig, {"addition_embed_type": "text_time"}, "needs addition_time_embed_dim"),
        (UNetConfig, {"addition_embed_type": "image"}, "unknown addition_embed_type"),
        (UNetConfig, {"mid_block_type": "UNetMidBlock2D"}, "unknown mid_block_type"),
        (UNetConfig, {"only_cross_attention": (True, False)}, "needs 4 entries"),
        (UNetConfig, {"num_class_embeds": 0}, "num_class_embeds"),
        (UNetConfig, {"time_cond_proj_dim": 7}, "must be even"),
        (ControlNetConfig, {"norm_num_groups": 7}, "ControlNet config: .*do not divide"),
        (ControlNetConfig, {"conditioning_embedding_out_channels": ()}, "at least 1"),
        (ControlNetConfig, {"controlnet_conditioning_channel_order": "gbr"}, "bgr, rgb"),
        (AutoencoderConfig, {"norm_num_groups": 0}, "at least 1"),
        (AutoencoderConfig, {"block_out_channels": ()}, "at least 1"),
        (AutoencoderConfig, {"latent_channels": 0}, "latent_channels"),
        (AutoencoderConfig, {"scaling_factor": 0.0}, "scaling_factor"),
        (TextEncoderConfig, {"num_attention_heads": 7}, "does not divide"),
        (TextEncoderConfig, {"num_attention_heads": 0}, "at least 1"),
        (TextEncoderConfig, {"hidden_act": "relu"}, "unknown hidden_act"),
    ],
)
def test_refused(config, options, message):
    with pytest.raises(UserError, match=message):
        config(**options)


def test_levels_without_attention_need_no_heads():
    """SDXL's finest level, here with channels that its heads do not divide."""
    config = UNetConfig(
        block_out_channels=(32, 96),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(5, 3),
    )
    assert config.heads(1) == 3


def test_without_a_middle_block_its_level_needs_no_heads():
    options = {
        "block_out_channels": (32, 96),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": (4, 5),
    }
    assert UNetConfig(**options, mid_block_type=None).mid_block_type is None
    with pytest.raises(UserError, match="5 heads"):
        UNetConfig(**options)
