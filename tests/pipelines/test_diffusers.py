"""A model directory opens in diffusers and draws the same pictures from the same noise.

With a number of steps that divides 1000: with any other, diffusers' DDIM steps by floor(1000 / n)
levels, which is not where its next timestep is (30 steps: 966, then from 933 to 932).
"""

import dataclasses

import numpy as np
import pytest

from jaxdiff.convert import NoiseConfig, save_model
from jaxdiff.pipelines import TextToImage

pytestmark = pytest.mark.parity

NOISES = {
    "emoji": NoiseConfig("cosine", prediction="v", spacing="trailing"),
    "zero_snr": NoiseConfig("scaled_linear", prediction="v", zero_terminal_snr=True),
    "eps": NoiseConfig("scaled_linear", prediction="eps", spacing="trailing"),
}


def _theirs(directory, prompts, latents, **options):
    """Pictures of diffusers' own pipeline, uint8 [B H W 3]."""
    import torch
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(directory)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.tensor(np.ascontiguousarray(latents.transpose(0, 3, 1, 2)))
    images = pipe(prompts, latents=noise, output_type="np", **options).images
    return (images * 255).round().astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "guidance"),
    [pytest.param("emoji", 1.0, marks=pytest.mark.slow), *((name, 5.0) for name in NOISES)],
)
def test_equal_pictures(name, guidance, tiny_model, tmp_path):
    save_model(tmp_path / "m", dataclasses.replace(tiny_model, noise=NOISES[name]))
    prompts = ["red heart", "cat face, noto style"]
    latents = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32)
    steps, negative = 10, "blue"
    theirs = _theirs(
        tmp_path / "m",
        prompts,
        latents,
        num_inference_steps=steps,
        guidance_scale=guidance,
        negative_prompt=[negative] * 2,
    )
    ours = TextToImage.load(tmp_path / "m")(
        prompts,
        [0, 0],
        latents=latents,
        sampler="ddim",
        schedule="trailing",
        num_steps=steps,
        guidance_scale=guidance,
        negative_prompt=negative,
    )
    difference = int(np.abs(ours.astype(int) - theirs.astype(int)).max())
    print(f"{name}, guidance {guidance:g}: {difference} of 255 levels apart")
    assert difference <= 2
    assert ours.std() > 5
