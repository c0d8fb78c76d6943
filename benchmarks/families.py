"""The published shapes of Stable Diffusion 1.5, 2.1 and XL, as options of diffusers' classes."""

from typing import Any

_CROSS = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
_PLAIN = "DownBlock2D", "UpBlock2D"
_SD = {
    "down_block_types": (_CROSS[0],) * 3 + (_PLAIN[0],),
    "up_block_types": (_PLAIN[1],) + (_CROSS[1],) * 3,
    "block_out_channels": (320, 640, 1280, 1280),
}
_CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
_OPENCLIP_H = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,  # of 24: the last one is not used
    "num_attention_heads": 16,
    "projection_dim": 512,
    "hidden_act": "gelu",
}
_OPENCLIP_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}

FAMILIES: dict[str, dict[str, Any]] = {
    "sd15": {
        "latents": 64,
        "unet": _SD | {"cross_attention_dim": 768, "attention_head_dim": 8},
        "text": (_CLIP_L,),
        "prediction": "epsilon",
        "scaling_factor": 0.18215,
    },
    "sd21": {
        "latents": 96,
        "unet": _SD
        | {
            "cross_attention_dim": 1024,
            "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
        },
        "text": (_OPENCLIP_H,),
        "prediction": "v_prediction",
        "scaling_factor": 0.18215,
    },
    "sdxl": {
        "latents": 128,
        "unet": {
            "down_block_types": (_PLAIN[0], _CROSS[0], _CROSS[0]),
            "up_block_types": (_CROSS[1], _CROSS[1], _PLAIN[1]),
            "block_out_channels": (320, 640, 1280),
            "cross_attention_dim": 2048,
            "attention_head_dim": (5, 10, 20),
            "transformer_layers_per_block": (1, 2, 10),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "text": (_CLIP_L, _OPENCLIP_G),
        "prediction": "epsilon",
        "scaling_factor": 0.13025,
    },
}
"""By name; `latents` is the native size."""

VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
}
VOCABULARY, END = 49408, 49407
