"""Single files of others, at full size and without a header: the published shapes are found.

Nothing is allocated: all tensors are one number, seen as arrays of the right shape.
"""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxdiff.convert import Model, NoiseConfig, TextTower, merge, single_file, single_file_save
from jaxdiff.convert.merge import parameter_shapes
from jaxdiff.convert.tensors import Stored
from jaxdiff.errors import UserError
from jaxdiff.models import AutoencoderConfig, TextEncoderConfig, UNetConfig

VAE = AutoencoderConfig()
CLIP_L = TextEncoderConfig()
CLIP_H = TextEncoderConfig(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=23,
    num_attention_heads=16,
    hidden_act="gelu",
)
CLIP_G = TextEncoderConfig(
    hidden_size=1280,
    intermediate_size=5120,
    num_hidden_layers=32,
    num_attention_heads=20,
    hidden_act="gelu",
    projection_dim=1280,
)
UNET_2 = UNetConfig(
    attention_head_dim=(5, 10, 20, 20), cross_attention_dim=1024, use_linear_projection=True
)
NOISE = NoiseConfig("scaled_linear", prediction="eps", spacing="leading")
VAE_XL = dataclasses.replace(VAE, sample_size=1024, scaling_factor=0.13025)

_shapes = functools.cache(parameter_shapes)  # tracing takes seconds


@functools.cache
def _tensors(unet, vae, towers, noise=NOISE):
    """What a file of such a model holds, by name."""
    fill = lambda config: jax.tree.map(  # noqa: E731
        lambda leaf: np.broadcast_to(np.float16(0.5), leaf.shape), _shapes(config)
    )
    text = tuple(TextTower(name, config, fill(config), None) for name, config in towers)
    model = Model(unet, fill(unet), vae, fill(vae), text, noise)
    written = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            single_file_save,
            "write_tensors",
            lambda path, tensors, *rest, **more: written.update(tensors),
        )
        single_file_save.save_single_file("x.safetensors", model)
    return {
        name: Stored(
            tuple(a.shape), np.dtype(np.float16), functools.partial(_value, tuple(a.shape))
        )
        for name, a in written.items()
    }


def _value(shape):
    return np.broadcast_to(np.float16(0.5), shape)


@pytest.fixture
def load(monkeypatch):
    """Loads named tensors as a file of that content would be."""

    def run(tensors, metadata=None, **options):
        monkeypatch.setattr(single_file, "open_tensors", lambda files: dict(tensors))
        monkeypatch.setattr(single_file, "read_metadata", lambda file: metadata or {})
        monkeypatch.setattr(single_file, "parameter_shapes", _shapes)
        monkeypatch.setattr(merge, "_read", lambda path, *rest: None)
        return single_file.load_single_file(Path("x.safetensors"), **options)

    return run


SD1 = (UNetConfig(), VAE, (("text_encoder", CLIP_L),))
SD2 = (UNET_2, VAE, (("text_encoder", CLIP_H),))


def test_stable_diffusion_1(load):
    tensors = _tensors(*SD1)
    assert sum(name.startswith("model.diffusion_model.") for name in tensors) == 686
    model = load(tensors)
    assert (model.unet_config, model.vae_config, model.text[0].config) == (*SD1[:2], CLIP_L)
    assert model.noise == NOISE
    assert "Stable Diffusion 1, 512 pixels, prediction eps (if" in model.notes[0]


def test_a_model_for_few_steps_is_sampled_from_its_last_level(load):
    model = load(_tensors(dataclasses.replace(UNetConfig(), time_cond_proj_dim=256), *SD1[1:]))
    assert model.noise == dataclasses.replace(NOISE, spacing="trailing")
    assert model.meta["sampling"]["sampler"] == "lcm"


def _with_spread(tensors, spread):
    """With the bias by which 768-pixel models are known."""
    name = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    bias = np.tile([spread, -spread], 160).astype(np.float32)
    return tensors | {name: Stored((320,), bias.dtype, lambda: bias)}


@pytest.mark.parametrize(("spread", "prediction", "pixels"), [(0.05, "eps", 512), (0.2, "v", 768)])
def test_stable_diffusion_2(load, spread, prediction, pixels):
    model = load(_with_spread(_tensors(*SD2), spread))
    config = dataclasses.replace(UNET_2, sample_size=pixels // 8)
    assert (model.unet_config, model.text[0].config) == (config, CLIP_H)
    assert model.noise.prediction == prediction
    assert model.vae_config.sample_size == pixels


def test_stable_diffusion_2_in_the_later_layout(load):
    old, new = "cond_stage_model.model.", "conditioner.embedders.0.model."
    tensors = {name.replace(old, new): tensor for name, tensor in _tensors(*SD2).items()}
    model = load(tensors)
    assert [tower.name for tower in model.text] == ["text_encoder"]
    assert model.family == "sd"


@pytest.mark.parametrize("key", ["modelspec.prediction_type", "modelspec.predict_key"])
def test_what_the_header_says_of_the_prediction_counts(load, key):
    tensors = _tensors(*SD1)
    model = load(tensors, {key: "v"})
    assert model.noise.prediction == "v"
    assert model.notes[0].endswith("prediction v")
    assert load(tensors, {key: "v"}, prediction="eps").noise.prediction == "eps"


XL = UNetConfig(
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
SDXL = (XL, VAE_XL, (("text_encoder", CLIP_L), ("text_encoder_2", CLIP_G)))


@pytest.mark.parametrize("zero_snr", [None, False, True])
def test_sdxl_and_its_markers(load, zero_snr):
    """ComfyUI's empty tensors for v-prediction and zero terminal SNR; both are written again."""
    noise = NOISE
    if zero_snr is not None:
        spacing = "trailing" if zero_snr else "leading"
        noise = NoiseConfig(
            "scaled_linear", prediction="v", zero_terminal_snr=zero_snr, spacing=spacing
        )
    tensors = _tensors(*SDXL, noise)
    assert ("v_pred" in tensors, "ztsnr" in tensors) == (zero_snr is not None, bool(zero_snr))
    model = load(tensors)
    assert (model.unet_config, model.vae_config) == SDXL[:2]
    assert [tower.config for tower in model.text] == [CLIP_L, CLIP_G]
    assert model.noise == noise
    assert model.zero_empty_prompt


def test_the_refiner(load):
    unet = UNetConfig(
        sample_size=128,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * 2, "DownBlock2D"),
        up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * 2, "UpBlock2D"),
        block_out_channels=(384, 768, 1536, 1536),
        cross_attention_dim=1280,
        attention_head_dim=(6, 12, 24, 24),
        transformer_layers_per_block=4,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2560,
    )
    model = load(_tensors(unet, VAE_XL, (("text_encoder_2", CLIP_G),)))
    assert model.unet_config == unet
    assert model.family == "sdxl-refiner"
    assert not model.zero_empty_prompt


def test_the_upscaler(load):
    unet = UNetConfig(
        sample_size=128,
        in_channels=7,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * 3),
        up_block_types=(*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"),
        block_out_channels=(256, 512, 512, 1024),
        cross_attention_dim=1024,
        num_class_embeds=1000,
        only_cross_attention=(False, True, True, False),
        use_linear_projection=True,
    )
    vae = AutoencoderConfig(block_out_channels=(128, 256, 512), scaling_factor=0.08333)
    model = load(_tensors(unet, vae, (("text_encoder", CLIP_H),)))
    assert (model.unet_config, model.vae_config) == (unet, vae)
    assert (model.noise.prediction, model.noise.beta_end) == ("v", 0.02)
    assert model.low_res_noise.prediction == "eps"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("edm_mean", "Playground 2.5"),
        ("edm_vpred.sigma_max", "EDM noise and v-prediction"),
        ("model.diffusion_model.label_emb.0.0.weight", "the embedding of a picture"),
    ],
)
def test_what_is_not_supported_is_named(load, name, message):
    more = {name: Stored((1280, 1024), np.dtype(np.float16), lambda: None)}
    with pytest.raises(UserError, match=f"x.safetensors.*{message}"):
        load(_tensors(*SD2) | more)


def test_what_is_no_stable_diffusion_is_named(load):
    tensors = _tensors(*SD1)
    del tensors["model.diffusion_model.input_blocks.0.0.weight"]
    with pytest.raises(UserError, match="x.safetensors: the tensor conv_in.weight is missing"):
        load(tensors)
