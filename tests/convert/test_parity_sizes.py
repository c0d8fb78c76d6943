"""Full sizes: published `config.json` files, read here and by diffusers, have the same parameters.

Nothing is allocated, here (shapes alone are traced) or there (torch's `meta` device).
"""

import json

import jax
import pytest

from jaxdiff.convert.configs import AUTOENCODER, CONTROLNET, UNET, read_config
from jaxdiff.convert.merge import parameter_shapes
from jaxdiff.convert.names import our_path

pytestmark = pytest.mark.parity

# What the files of all of them say, beside numbers.
UNET_FILE = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "center_input_sample": False,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "in_channels": 4,
}
DOWN, CROSS_DOWN = "DownBlock2D", "CrossAttnDownBlock2D"
UP, CROSS_UP = "UpBlock2D", "CrossAttnUpBlock2D"
SD1 = UNET_FILE | {
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
    "down_block_types": [CROSS_DOWN] * 3 + [DOWN],
    "up_block_types": [UP] + [CROSS_UP] * 3,
    "sample_size": 64,
}
SD2 = SD1 | {
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "sample_size": 96,
    "upcast_attention": True,
    "use_linear_projection": True,
}
SDXL = SD2 | {
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_dim": 2048,
    "cross_attention_norm": None,
    "down_block_types": [DOWN, CROSS_DOWN, CROSS_DOWN],
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "mid_block_only_cross_attention": None,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_attention_heads": None,
    "projection_class_embeddings_input_dim": 2816,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "sample_size": 128,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": [CROSS_UP, CROSS_UP, UP],
    "upcast_attention": None,
}
REFINER = SDXL | {
    "attention_head_dim": [6, 12, 24, 24],
    "block_out_channels": [384, 768, 1536, 1536],
    "cross_attention_dim": 1280,
    "down_block_types": [DOWN, CROSS_DOWN, CROSS_DOWN, DOWN],
    "projection_class_embeddings_input_dim": 2560,
    "transformer_layers_per_block": 4,
    "up_block_types": [UP, CROSS_UP, CROSS_UP, UP],
}
UPSCALER = SD2 | {
    "attention_head_dim": 8,
    "block_out_channels": [256, 512, 512, 1024],
    "down_block_types": [DOWN, CROSS_DOWN, CROSS_DOWN, CROSS_DOWN],
    "in_channels": 7,
    "num_class_embeds": 1000,
    "only_cross_attention": [True, True, True, False],
    "sample_size": 128,
    "up_block_types": [CROSS_UP, CROSS_UP, CROSS_UP, UP],
}
BK_SDM_SMALL = SD1 | {"layers_per_block": 1, "mid_block_type": None}
BK_SDM_TINY = BK_SDM_SMALL | {
    "block_out_channels": [320, 640, 1280],
    "down_block_types": [CROSS_DOWN] * 3,
    "up_block_types": [CROSS_UP] * 3,
}


def _controlnet(unet):
    """A ControlNet's file beside that of its UNet."""
    of_unets = ("up_block", "out_", "sample_size", "center_", "conv_", "class_", "time", "dual_")
    more = ("cross_attention_norm", "mid_block_only", "resnet_out", "resnet_skip")
    common = {key: unet[key] for key in unet if not key.startswith((*of_unets, *more))}
    return common | {
        "_class_name": "ControlNetModel",
        "class_embed_type": None,
        "conditioning_embedding_out_channels": [16, 32, 96, 256],
        "controlnet_conditioning_channel_order": "rgb",
        "resnet_time_scale_shift": "default",
    }


AUTOENCODER_FILE = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "force_upcast": True,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "sample_size": 256,
    "scaling_factor": 0.08333,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
}
FILES = {
    "sd1": (UNET, SD1),
    "sd2": (UNET, SD2),
    "inpainting": (UNET, SD1 | {"in_channels": 9}),
    "lcm": (UNET, SD1 | {"time_cond_proj_dim": 256}),
    "x4 upscaler": (UNET, UPSCALER),
    "bk-sdm small": (UNET, BK_SDM_SMALL),
    "bk-sdm tiny": (UNET, BK_SDM_TINY),
    "sdxl": (UNET, SDXL),
    "sdxl refiner": (UNET, REFINER),
    "sd1 controlnet": (CONTROLNET, _controlnet(SD1)),
    "sdxl controlnet": (CONTROLNET, _controlnet(SDXL)),
    "x4 upscaler autoencoder": (AUTOENCODER, AUTOENCODER_FILE),
}


@pytest.mark.parametrize("name", FILES)
def test_parameters_of_a_published_file(name, tmp_path):
    import diffusers
    import torch

    architecture, content = FILES[name]
    (tmp_path / "config.json").write_text(json.dumps(content))
    leaves, _ = jax.tree_util.tree_flatten_with_path(
        parameter_shapes(read_config(tmp_path / "config.json", architecture))
    )
    ours = {"/".join(key.key for key in path): leaf.size for path, leaf in leaves}
    cls = getattr(diffusers, architecture.class_names[0])
    with torch.device("meta"):
        theirs = cls.from_config(cls.load_config(tmp_path)).state_dict()
    assert ours == {our_path(key): value.numel() for key, value in theirs.items()}
    print(f"{name}: {sum(ours.values()):,} parameters")
