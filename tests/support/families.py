"""Scaled-down models of random weights, one for each family, as diffusers makes and saves them."""

import dataclasses
from pathlib import Path

import numpy as np

from jaxdiff.data.tokenizer import Tokenizer

_LEVELS = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 16,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 8,
    "cross_attention_dim": 64,
}
_LINEAR = {"use_linear_projection": True, "attention_head_dim": (1, 1)}
_LARGE = _LINEAR | {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2),
}
_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "max_position_embeddings": 12,
    "projection_dim": 64,
}

_WIDE = {"hidden_size": 128, "num_attention_heads": 2, "projection_dim": 128}


@dataclasses.dataclass(frozen=True)
class Family:
    """How a family differs from Stable Diffusion 1."""

    pipeline: str = "StableDiffusionPipeline"
    unet: dict = dataclasses.field(default_factory=dict)
    towers: tuple[str, ...] = ("text_encoder",)
    act: str = "quick_gelu"
    scheduler: str = "DDIMScheduler"
    noise: dict = dataclasses.field(default_factory=dict)
    scaling_factor: float = 0.18215
    name: str = "sd"


_BOTH = ("text_encoder", "text_encoder_2")
_BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
_LARGE_UNET = _LARGE | {
    "cross_attention_dim": 64 + 128,
    "projection_class_embeddings_input_dim": 128 + 6 * 8,
}
FAMILIES = {
    "sd1": Family(),
    "sd2": Family(
        unet=_LINEAR,
        act="gelu",
        noise={"prediction_type": "v_prediction"},
        scheduler="PNDMScheduler",
    ),
    "inpaint": Family("StableDiffusionInpaintPipeline", {"in_channels": 9}, name="sd-inpaint"),
    "lcm": Family(
        "LatentConsistencyModelPipeline", {"time_cond_proj_dim": 16}, scheduler="LCMScheduler"
    ),
    "bk-sdm": Family(unet={"mid_block_type": None}),
    "upscale": Family(
        "StableDiffusionUpscalePipeline",
        {
            "in_channels": 7,
            "num_class_embeds": 40,
            "only_cross_attention": (True, False),
            "use_linear_projection": True,
        },
        act="gelu",
        noise={"prediction_type": "v_prediction", "beta_start": 0.0001, "beta_end": 0.02},
        scaling_factor=0.08333,
        name="sd-upscale",
    ),
    "sdxl": Family(
        "StableDiffusionXLPipeline",
        _LARGE_UNET,
        _BOTH,
        scheduler="EulerDiscreteScheduler",
        scaling_factor=0.13025,
        name="sdxl",
    ),
    "sdxl-inpaint": Family(
        "StableDiffusionXLInpaintPipeline",
        _LARGE_UNET | {"in_channels": 9},
        _BOTH,
        scheduler="EulerDiscreteScheduler",
        scaling_factor=0.13025,
        name="sdxl-inpaint",
    ),
    "refiner": Family(
        "StableDiffusionXLImg2ImgPipeline",
        _LARGE
        | {
            "cross_attention_dim": 128,
            "projection_class_embeddings_input_dim": 128 + 5 * 8,
            "transformer_layers_per_block": 2,
        },
        ("text_encoder_2",),
        scheduler="EulerDiscreteScheduler",
        scaling_factor=0.13025,
        name="sdxl-refiner",
    ),
}


def scatter(module, seed=0):
    """Random values in all parameters, those that start at zero too; as float16."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(offset + 0.1 * torch.randn(parameter.shape, generator=generator))
    return module.half().eval()


def make_pipeline(name, folder):
    """A family's pipeline; the tokenizers' files are written below `folder`."""
    import diffusers
    import transformers

    family = FAMILIES[name]
    tokenizer = Tokenizer.train(["red heart", "cat face, noto style"], 540, max_length=12)
    parts = {
        "unet": scatter(diffusers.UNet2DConditionModel(**_LEVELS | family.unet), 1),
        "vae": scatter(
            diffusers.AutoencoderKL(
                sample_size=16,
                block_out_channels=(16, 16),
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                norm_num_groups=16,
                latent_channels=4,
                scaling_factor=family.scaling_factor,
            ),
            2,
        ),
    }
    kwargs = {} if family.scheduler == "EulerDiscreteScheduler" else {"clip_sample": False}
    kwargs = {} if family.scheduler == "PNDMScheduler" else kwargs
    scheduler = getattr(diffusers, family.scheduler)
    parts["scheduler"] = scheduler(**_BETAS | {"steps_offset": 1} | kwargs | family.noise)
    for tower in _BOTH:
        parts[tower] = parts[_tokenizer(tower)] = None
    for tower in family.towers:
        second = tower == "text_encoder_2"
        kind = "CLIPTextModelWithProjection" if second else "CLIPTextModel"
        config = transformers.CLIPTextConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_act="gelu" if second else family.act,
            eos_token_id=tokenizer.eos_id,
            bos_token_id=tokenizer.bos_id,
            pad_token_id=0 if second else tokenizer.eos_id,
            **_TEXT | (_WIDE if second else {}),
        )
        parts[tower] = scatter(getattr(transformers, kind)(config), 3 + second)
        own = Path(folder) / _tokenizer(tower)
        padded = Tokenizer(tokenizer.vocab, tokenizer.merges, 12, "!" if second else tokenizer.pad)
        padded.save(own)
        parts[_tokenizer(tower)] = transformers.CLIPTokenizer.from_pretrained(own)
    if not family.name.startswith("sdxl"):
        parts |= {"safety_checker": None, "feature_extractor": None}
        del parts["text_encoder_2"], parts["tokenizer_2"]
    if family.name in ("sd", "sd-inpaint"):
        parts["requires_safety_checker"] = False
    if family.name == "sdxl-refiner":
        parts |= {"requires_aesthetics_score": True, "force_zeros_for_empty_prompt": False}
    if family.name == "sd-upscale":
        parts["low_res_scheduler"] = diffusers.DDPMScheduler(
            **_BETAS | family.noise | {"prediction_type": "epsilon"}
        )
    return getattr(diffusers, family.pipeline)(**parts)


def save_reference(name, folder):
    """Save a family's pipeline as diffusers does, and return it."""
    pipeline = make_pipeline(name, folder.with_name(f"{folder.name}-tokenizers"))
    pipeline.save_pretrained(folder, safe_serialization=True)
    return pipeline


def _tokenizer(tower):
    return tower.replace("text_encoder", "tokenizer")


def same_tensors(first, second):
    """Whether two dicts of arrays are equal in names, types, shapes and bytes."""
    return first.keys() == second.keys() and all(
        (a.dtype, a.shape, np.ascontiguousarray(a).tobytes())
        == (b.dtype, b.shape, np.ascontiguousarray(b).tobytes())
        for a, b in ((first[name], second[name]) for name in first)
    )
