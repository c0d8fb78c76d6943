"""Whole pictures, ours and diffusers', of random networks from the same noise: every task."""

import sys

import numpy as np
import pytest
from drawn_alike import (
    NEGATIVE,
    NOISE,
    PROMPTS,
    STEPS,
    as_task,
    assert_alike,
    drawn,
    nchw,
    pil,
    reference,
    settings,
)

from jaxdiff.diffusion.samplers import unit_noise
from jaxdiff.pipelines import TextToImage
from jaxdiff.rng import fold_each, image_keys, normal_each

pytestmark = pytest.mark.parity
GUIDANCE = 4.0
NEGATIVES = [NEGATIVE] * 2


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Name of a family -> (theirs, ours), made once."""
    made = {}

    def get(name, **scheduler):
        key = (name, *scheduler.items())
        if key not in made:
            folder = tmp_path_factory.mktemp("reference") / name
            made[key] = reference(name, folder, **scheduler), TextToImage.load(folder)
        return made[key]

    return get


@pytest.mark.parametrize("name", ["sd1", "sd2", "bk-sdm", "sdxl"])
def test_text_to_image(name, models):
    theirs, ours = models(name)
    picture = drawn(theirs, PROMPTS, negative_prompt=NEGATIVES, guidance_scale=GUIDANCE)
    changes = settings(negative_prompt=NEGATIVE, guidance_scale=GUIDANCE)
    assert_alike(ours(PROMPTS, [0, 0], latents=NOISE, **changes), picture, name)


def test_an_empty_negative_prompt_of_sdxl_is_zeros(models):
    theirs, ours = models("sdxl")
    picture = drawn(theirs, PROMPTS, guidance_scale=GUIDANCE)
    changes = settings(guidance_scale=GUIDANCE)
    assert_alike(ours(PROMPTS, [0, 0], latents=NOISE, **changes), picture, "sdxl, no negative")


@pytest.mark.parametrize(("name", "strength"), [("sd1", 0.3), ("sdxl", 0.75), ("sd1", 1.0)])
def test_image_to_image(name, strength, models, photo, monkeypatch):
    import diffusers

    large = name == "sdxl"
    cls = (
        diffusers.StableDiffusionXLImg2ImgPipeline
        if large
        else (diffusers.StableDiffusionImg2ImgPipeline)
    )
    theirs, ours = models(name)
    task = as_task(theirs, cls)
    picture = drawn(
        task, PROMPTS, image=pil(photo[:2]), strength=strength, negative_prompt=NEGATIVES,
        guidance_scale=GUIDANCE, monkeypatch=monkeypatch,
    )  # fmt: skip
    changes = settings(negative_prompt=NEGATIVE, guidance_scale=GUIDANCE, strength=strength)
    pixels = ours(PROMPTS, [0, 0], latents=NOISE, init_images=photo[:2], **changes)
    assert_alike(pixels, picture, f"{name} from a picture at {strength}")


INPAINT = {
    "sd1": ("StableDiffusionInpaintPipeline", [0.7, 0.9]),
    "inpaint": ("StableDiffusionInpaintPipeline", [0.7, 1.0]),
    "sdxl-inpaint": ("StableDiffusionXLInpaintPipeline", [0.99]),
}


@pytest.mark.parametrize(
    ("name", "strength"), [(n, strength) for n in INPAINT for strength in INPAINT[n][1]]
)
def test_inpainting(name, strength, models, photo, monkeypatch):
    """A plain network and those given the mask; what the mask keeps is the user's here."""
    import diffusers

    mask = _aligned_mask()
    theirs, ours = models(name)
    task = as_task(theirs, getattr(diffusers, INPAINT[name][0]))
    picture = drawn(
        task, PROMPTS, image=pil(photo[:2]), mask_image=pil([mask] * 2), height=16, width=16,
        strength=strength, negative_prompt=NEGATIVES, guidance_scale=GUIDANCE,
        monkeypatch=monkeypatch,
    )  # fmt: skip
    changes = settings(negative_prompt=NEGATIVE, guidance_scale=GUIDANCE, strength=strength)
    pixels = ours(PROMPTS, [0, 0], latents=NOISE, init_images=photo[:2], masks=mask, **changes)
    where = mask > 0
    assert_alike(pixels[:, where], picture[:, where], f"{name} within a mask at {strength}")
    np.testing.assert_array_equal(pixels[:, ~where], photo[:2][:, ~where])


def test_inpainting_from_pure_noise(models, photo, monkeypatch):
    """At strength 1 a plain network starts from noise alone, which is all there is at zero SNR.

    Elsewhere diffusers shows it noise where the picture is known; we show the picture, noised.
    """
    import diffusers

    mask = _aligned_mask()
    options = dict(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    theirs, ours = models("sd2", **options)
    task = as_task(theirs, diffusers.StableDiffusionInpaintPipeline)
    picture = drawn(
        task, PROMPTS, image=pil(photo[:2]), mask_image=pil([mask] * 2), height=16, width=16,
        strength=1.0, guidance_scale=GUIDANCE, monkeypatch=monkeypatch,
    )  # fmt: skip
    changes = settings(guidance_scale=GUIDANCE, strength=1.0) | {"schedule": "trailing"}
    pixels = ours(PROMPTS, [0, 0], latents=NOISE, init_images=photo[:2], masks=mask, **changes)
    where = mask > 0
    assert_alike(pixels[:, where], picture[:, where], "sd2 within a mask at 1")


def _aligned_mask():
    """White where latents are, so that there is but one way to shrink it."""
    mask = np.zeros((16, 16), np.uint8)
    mask[4:12, 6:] = 255
    return mask


@pytest.mark.parametrize("steps", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_few_steps(steps, models, monkeypatch):
    """LCM: the guidance scale is an input of the network, and one call makes a step."""
    from diffusers.schedulers import scheduling_lcm

    theirs, ours = models("lcm")
    between = normal_each(fold_each(image_keys([3, 4]), 0), NOISE.shape[1:])
    monkeypatch.setattr(scheduling_lcm, "randn_tensor", lambda *_, **__: nchw(between))
    picture = drawn(theirs, PROMPTS, guidance_scale=6.0, steps=steps)
    changes = dict(sampler="lcm", schedule="trailing", num_steps=steps, guidance_scale=6.0)
    assert_alike(ours(PROMPTS, [3, 4], latents=NOISE, **changes), picture, f"lcm in {steps}")


def test_a_scale_given_to_the_network_along_the_usual_steps(models):
    import diffusers

    theirs, ours = models("lcm")
    task = as_task(theirs, diffusers.StableDiffusionPipeline)
    task.scheduler = diffusers.DDIMScheduler.from_config(
        theirs.scheduler.config, clip_sample=False, timestep_spacing="leading", steps_offset=1
    )
    picture = drawn(task, PROMPTS, guidance_scale=GUIDANCE)
    pixels = ours(PROMPTS, [0, 0], latents=NOISE, **settings(guidance_scale=GUIDANCE))
    assert_alike(pixels, picture, "lcm by DDIM")


def test_base_and_refiner(models, tmp_path):
    """The base draws the first 0.8 of the way, its refiner the rest."""
    import diffusers

    base, ours = models("sdxl")
    refiner, our_refiner = models("refiner")
    steps = dict(negative_prompt=NEGATIVES, guidance_scale=GUIDANCE)
    halfway = base(
        PROMPTS, num_inference_steps=STEPS, latents=nchw(NOISE), denoising_end=0.8,
        output_type="latent", **steps,
    ).images  # fmt: skip
    assert isinstance(refiner, diffusers.StableDiffusionXLImg2ImgPipeline)
    images = refiner(
        PROMPTS, num_inference_steps=STEPS, image=halfway, denoising_start=0.8, output_type="np",
        **steps,
    ).images  # fmt: skip
    ours.set_refiner(our_refiner, 0.8)
    changes = settings(negative_prompt=NEGATIVE, guidance_scale=GUIDANCE)
    pixels = ours(PROMPTS, [0, 0], latents=NOISE, **changes)
    ours.set_refiner(None)
    assert_alike(pixels, np.round(images * 255).astype(np.uint8), "base and refiner")


@pytest.mark.slow
def test_a_second_pass(models, monkeypatch):
    """Latents enlarged by bilinear interpolation, noised, and drawn again from a half on."""
    import diffusers
    import torch

    theirs, ours = models("sd1")
    steps = dict(negative_prompt=NEGATIVES, guidance_scale=GUIDANCE)
    small = theirs(
        PROMPTS, num_inference_steps=STEPS, latents=nchw(NOISE), output_type="latent", **steps
    ).images
    large = torch.nn.functional.interpolate(small, scale_factor=2, mode="bilinear")
    task = as_task(theirs, diffusers.StableDiffusionImg2ImgPipeline)
    noise = unit_noise(image_keys([0, 1]), (16, 16, 4), "hires")
    picture = drawn(
        task, PROMPTS, image=large, strength=0.5, noise=noise, monkeypatch=monkeypatch, **steps
    )
    changes = settings(negative_prompt=NEGATIVE, guidance_scale=GUIDANCE)
    pixels = ours(PROMPTS, [0, 1], latents=NOISE, hires_scale=2.0, hires_strength=0.5, **changes)
    assert pixels.shape == (2, 32, 32, 3)
    assert_alike(pixels, picture, "second pass")


def test_upscaling(models, photo, monkeypatch):
    """The x4 upscaler's form: the picture, noised, goes in beside latents of its own size."""
    theirs, ours = models("upscale")
    small = photo[:2, :8, :8]
    noises = iter([unit_noise(image_keys([0, 1]), small.shape[1:], "small"), NOISE])
    module = sys.modules[type(theirs).__module__]
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: nchw(next(noises)))
    images = theirs(
        PROMPTS, image=pil(small), num_inference_steps=STEPS, noise_level=20,
        negative_prompt=NEGATIVES, guidance_scale=GUIDANCE, output_type="np",
    ).images  # fmt: skip
    changes = settings(negative_prompt=NEGATIVE, guidance_scale=GUIDANCE)
    pixels = ours(PROMPTS, [0, 1], latents=NOISE, init_images=small, **changes)
    assert_alike(pixels, np.round(images * 255).astype(np.uint8), "upscaled")
