"""ControlNets, scaled down, against diffusers: their residuals, and what a UNet makes of them."""

import jax
import numpy as np
import pytest
from torch_parity import applied, assert_close, loaded, scattered, tensors

from jaxdiff.convert.configs import CONTROLNET, UNET
from jaxdiff.models import add_residuals, scale_residuals

pytestmark = pytest.mark.parity

SHAPE = dict(
    in_channels=4,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    block_out_channels=(16, 32),
    layers_per_block=1,
    norm_num_groups=8,
    attention_head_dim=2,
    cross_attention_dim=24,
)
PICTURE = dict(conditioning_embedding_out_channels=(4, 8, 12, 16))
FAMILIES = {
    "sd1": {},
    "sd1 shuffle": {},
    "sdxl": dict(
        attention_head_dim=(1, 2),
        use_linear_projection=True,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 12,
    ),
}
OPTIONS = {  # of ControlNets alone
    "sd1 shuffle": dict(global_pool_conditions=True, controlnet_conditioning_channel_order="bgr"),
}
WEIGHTS = (0.5, 1.3)


def _up(down_block_types):
    kinds = [kind.replace("Down", "Up", 1) for kind in reversed(down_block_types)]
    return {"up_block_types": tuple(kinds)}


@pytest.mark.parametrize("name", FAMILIES)
def test_controlnet(name, tmp_path):
    """Two pictures' residuals at their weights, added up, then a UNet with them."""
    import torch
    from diffusers import ControlNetModel, UNet2DConditionModel

    shape = SHAPE | FAMILIES[name]
    control = scattered(lambda: ControlNetModel(**shape, **PICTURE, **OPTIONS.get(name, {})))
    unet = scattered(
        lambda: UNet2DConditionModel(**shape, **_up(shape["down_block_types"]), out_channels=4)
    )
    config, params = loaded(control, tmp_path / "control", CONTROLNET)
    unet_config, unet_params = loaded(unet, tmp_path / "unet", UNET)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 6, 5, 4)).astype(np.float32)
    timestep = np.array([3.0, 981.0], np.float32)
    context = rng.normal(size=(2, 7, 24)).astype(np.float32)
    images = rng.uniform(size=(2, 2, 48, 40, 3)).astype(np.float32)
    added = None
    if name == "sdxl":
        pooled = rng.normal(size=(2, 12)).astype(np.float32)
        ids = np.array([[64, 64, 0, 0, 64, 60], [32, 64, 8, 4, 64, 64]], np.float32)
        added = {"text_embeds": pooled, "time_ids": ids}

    parts = [
        scale_residuals(applied(config, params, x, timestep, context, image, added), weight)
        for image, weight in zip(images, WEIGHTS, strict=True)
    ]
    ours = add_residuals(parts)
    predicted = applied(
        unet_config,
        unet_params,
        x,
        timestep,
        context,
        added,
        residuals=jax.tree.map(np.asarray, ours),
    )

    extra = {"added_cond_kwargs": tensors(added)} if added else {}
    args = tensors((x, timestep, context))
    with torch.no_grad():
        said = [
            control(*args, tensors(image), conditioning_scale=weight, **extra)
            for image, weight in zip(images, WEIGHTS, strict=True)
        ]
        down = [
            sum(pair) for pair in zip(*(part.down_block_res_samples for part in said), strict=True)
        ]
        mid = sum(part.mid_block_res_sample for part in said)
        expected = unet(
            *args, down_block_additional_residuals=down, mid_block_additional_residual=mid, **extra
        ).sample
        plain = unet(*args, **extra).sample
    assert len(ours.down) == len(down)
    for i, (our, their) in enumerate(zip((*ours.down, ours.mid), (*down, mid), strict=True)):
        assert_close(our, their, f"controlnet {name}, residual {i}")
    assert_close(predicted, expected, f"unet with controlnet {name}")
    assert (plain - expected).abs().max() > 1e-2
