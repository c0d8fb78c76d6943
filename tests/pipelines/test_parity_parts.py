"""Whole pictures, ours and diffusers', with ControlNets and LoRAs in them."""

import numpy as np
import pytest
from drawn_alike import NEGATIVE, NOISE, PROMPTS, as_task, assert_alike, drawn, pil, reference
from drawn_alike import settings as settings_of
from families import scatter

from jaxdiff.pipelines import TextToImage

pytestmark = pytest.mark.parity
GUIDANCE = 4.0
THEIRS = dict(negative_prompt=[NEGATIVE] * 2, guidance_scale=GUIDANCE)
OURS = settings_of(negative_prompt=NEGATIVE, guidance_scale=GUIDANCE)


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    """(theirs, two ControlNets of theirs, ours with both)."""
    return _with_controlnets("sd1", tmp_path_factory.mktemp("controlled"), 2)


def _with_controlnets(family, folder, count):
    """A family's pipeline, ControlNets of its shape, and ours with these."""
    from diffusers import ControlNetModel

    theirs, nets = reference(family, folder / family), []
    ours = TextToImage.load(folder / family)
    for i in range(count):
        net = ControlNetModel.from_unet(theirs.unet, conditioning_embedding_out_channels=(4, 8))
        nets.append(scatter(net, 10 + i))
        net.save_pretrained(folder / f"net{i}")
        net.float()
        ours.add_controlnet(folder / f"net{i}")
    return theirs, nets, ours


@pytest.mark.parametrize(
    ("weights", "ranges"),
    [
        ((0.7,), ((0.2, 0.6),)),
        ((1.2, -0.5), ((0.0, 0.5), (0.3, 1.0))),
    ],
)
def test_controlnets(weights, ranges, controlled, photo):
    from diffusers import StableDiffusionControlNetPipeline

    theirs, nets, ours = controlled
    count, starts, ends = len(weights), *(list(side) for side in zip(*ranges, strict=True))
    single = count == 1
    task = as_task(
        theirs,
        StableDiffusionControlNetPipeline,
        controlnet=nets[0] if single else nets,
    )
    picture = drawn(
        task,
        PROMPTS,
        image=pil(photo)[0] if single else pil(photo)[:2],
        controlnet_conditioning_scale=weights[0] if single else list(weights),
        control_guidance_start=starts[0] if single else starts,
        control_guidance_end=ends[0] if single else ends,
        height=16,
        width=16,
        **THEIRS,
    )
    off = ((0.0,), ((0.0, 1.0),)) if single else ((), ())
    pixels = ours(
        PROMPTS,
        [0, 0],
        latents=NOISE,
        control_images=[photo[0], photo[1]],
        control_weights=weights + off[0],
        control_ranges=ranges + off[1],
        **OURS,
    )
    assert_alike(pixels, picture, f"ControlNets at {weights}, steps {ranges}")


def test_controlnet_of_sdxl(tmp_path, photo):
    """One that is told the sizes and the pooled text too."""
    from diffusers import StableDiffusionXLControlNetPipeline

    theirs, nets, ours = _with_controlnets("sdxl", tmp_path, 1)
    assert nets[0].config.addition_embed_type == "text_time"
    task = as_task(theirs, StableDiffusionXLControlNetPipeline, controlnet=nets[0])
    picture = drawn(
        task,
        PROMPTS,
        image=pil(photo)[0],
        controlnet_conditioning_scale=0.7,
        control_guidance_end=0.6,
        height=16,
        width=16,
        **THEIRS,
    )
    steered = {"control_images": [photo[0]], "control_ranges": ((0.0, 0.6),)}
    pixels = ours(PROMPTS, [0, 0], latents=NOISE, control_weights=(0.7,), **steered, **OURS)
    assert_alike(pixels, picture, "ControlNet of SDXL")
    off = ours(PROMPTS, [0, 0], latents=NOISE, control_weights=(0.0,), **steered, **OURS)
    assert np.abs(pixels.astype(int) - off).max() > 2


def test_lora(tmp_path):
    """peft's own file of UNet and text encoder, at three weights."""
    pytest.importorskip("peft")
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    theirs = reference("sd1", tmp_path / "sd1")
    ours = TextToImage.load(tmp_path / "sd1")
    targets = {"unet": ["to_k", "to_q", "to_v", "to_out.0", "conv1"], "text_encoder": ["q_proj"]}
    layers = {}
    for part, names in targets.items():
        module = getattr(theirs, part)
        module.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=names))
        state = convert_state_dict_to_diffusers(get_peft_model_state_dict(module))
        layers[f"{part}_lora_layers"] = {key: 0.5 * value for key, value in state.items()}
    theirs.save_lora_weights(tmp_path, **layers)
    theirs.unload_lora_weights()
    file = tmp_path / "pytorch_lora_weights.safetensors"
    theirs.load_lora_weights(str(file), adapter_name="it")
    plain = ours(PROMPTS, [0, 0], latents=NOISE, **OURS)
    for weight in (0.0, 0.7, 1.0):
        theirs.set_adapters(["it"], [weight])
        picture = drawn(theirs, PROMPTS, **THEIRS)
        ours.set_loras([(file, weight)])
        pixels = ours(PROMPTS, [0, 0], latents=NOISE, **OURS)
        assert_alike(pixels, picture, f"LoRA at {weight}")
        assert (np.abs(pixels.astype(int) - plain).max() > 2) == (weight > 0)
