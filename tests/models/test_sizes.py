"""Known models, by their configurations, have the published numbers of parameters.

Nothing is allocated: shapes alone are traced.
"""

import pytest

from jaxdiff.models import (
    AutoencoderConfig,
    ControlNetConfig,
    TextEncoderConfig,
    UNetConfig,
    count_parameters,
    parameter_shapes,
)

SD2 = UNetConfig(
    attention_head_dim=(5, 10, 20, 20), cross_attention_dim=1024, use_linear_projection=True
)
SDXL = UNetConfig(
    sample_size=128,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(320, 640, 1280),
    cross_attention_dim=2048,
    attention_head_dim=(5, 10, 20),
    transformer_layers_per_block=(1, 2, 10),
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)
SIZES = {
    "sd1 unet": (UNetConfig(), 859_520_964),
    "sd1 inpainting unet": (UNetConfig(in_channels=9), 859_535_364),
    "sd1 controlnet": (ControlNetConfig(), 361_279_120),
    "sd2 unet": (SD2, 865_910_724),
    "sdxl unet": (SDXL, 2_567_463_684),
    "sd autoencoder": (AutoencoderConfig(), 83_653_863),
    "clip-l text": (TextEncoderConfig(), 123_060_480),
}


@pytest.mark.parametrize("name", SIZES)
def test_parameters(name):
    config, size = SIZES[name]
    assert count_parameters(parameter_shapes(config)) == size
