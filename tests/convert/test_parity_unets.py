"""The UNets of every family, scaled down, against diffusers with the same random weights."""

import numpy as np
import pytest
from torch_parity import applied, assert_close, loaded, scattered, tensors

from jaxdiff.convert.configs import UNET

pytestmark = pytest.mark.parity

SHAPE = dict(
    sample_size=8,
    in_channels=4,
    out_channels=4,
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    block_out_channels=(16, 32, 48),
    layers_per_block=1,
    norm_num_groups=8,
    attention_head_dim=2,
    cross_attention_dim=24,
)
SD2 = dict(attention_head_dim=(1, 2, 4), use_linear_projection=True)
SDXL = SD2 | dict(
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=(1, 2, 3),
    addition_embed_type="text_time",
    addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=6 * 8 + 12,
)
FAMILIES = {
    "sd1": dict(layers_per_block=2),
    "sd2": SD2,
    "sdxl": SDXL,
    "sdxl refiner": SDXL
    | dict(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=2,
        projection_class_embeddings_input_dim=5 * 8 + 12,
    ),
    "inpainting": dict(in_channels=9),
    "lcm": dict(time_cond_proj_dim=16),
    "x4 upscaler": dict(
        in_channels=7,
        num_class_embeds=10,
        only_cross_attention=[True, True, False],
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        use_linear_projection=True,
    ),
    "bk-sdm base": dict(),
    "bk-sdm tiny": dict(
        mid_block_type=None,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
    ),
}
SIZES = {"inpainting": (7, 10), "bk-sdm base": (5, 9)}  # not divisible by 4; elsewhere 8 x 8


def _inputs(name, config):
    """Arguments of ours, and those of diffusers that are not of the same name."""
    rng = np.random.default_rng(0)
    size = SIZES.get(name, (8, 8))
    x = rng.normal(size=(2, *size, config.in_channels)).astype(np.float32)
    timestep = np.array([3.0, 981.0], np.float32)
    context = rng.normal(size=(2, 7, config.cross_attention_dim)).astype(np.float32)
    ours, theirs = {}, {}
    if config.addition_embed_type is not None:
        ids = np.array([[64, 64, 0, 0, 64, 60], [32, 64, 8, 4, 64, 64]], np.float32)
        pooled = rng.normal(size=(2, 12)).astype(np.float32)
        added = {"text_embeds": pooled, "time_ids": ids[:, :5] if "refiner" in name else ids}
        ours, theirs = {"added": added}, {"added_cond_kwargs": tensors(added)}
    if config.num_class_embeds is not None:
        ours = {"class_labels": np.array([0, 7], np.int32)}
        theirs = tensors(ours)
    if config.time_cond_proj_dim is not None:
        ours = {"guidance_cond": np.array([1.0, 8.5], np.float32)}
        theirs = {"timestep_cond": _embedded_guidance(ours["guidance_cond"], config)}
    return (x, timestep, context), ours, theirs


def _embedded_guidance(scales, config):
    """As the pipeline of latent consistency models embeds them."""
    from diffusers import LatentConsistencyModelPipeline as Pipeline

    weights = tensors(scales - 1)
    return Pipeline.get_guidance_scale_embedding(None, weights, config.time_cond_proj_dim)


@pytest.mark.parametrize("name", FAMILIES)
def test_unet(name, tmp_path):
    import torch
    from diffusers import UNet2DConditionModel

    module = scattered(lambda: UNet2DConditionModel(**SHAPE | FAMILIES[name]))
    config, params = loaded(module, tmp_path, UNET)
    args, ours, theirs = _inputs(name, config)
    predicted = applied(config, params, *args, **ours)
    with torch.no_grad():
        expected = module(*tensors(args), **theirs).sample
    assert_close(predicted, expected, f"unet {name}")
