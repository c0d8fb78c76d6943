"""The PyTorch side of `full_size.py`: the reference, and its steps.

Axis legend: T tokens.
"""

import resource
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from benchmarks.families import END, FAMILIES, VAE, VOCABULARY
from benchmarks.shapes import GUIDANCE
from benchmarks.side_diffusers import stable_diffusion_ddim


def make(directory: Path, family: str, dtype: str) -> None:
    """Write a model directory of full size with random weights."""
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, dtype))
    shapes = FAMILIES[family]
    towers = [
        transformers.CLIPTextConfig(
            **options, vocab_size=VOCABULARY, bos_token_id=END - 1, eos_token_id=END, pad_token_id=1
        )
        for options in shapes["text"]
    ]
    parts = {
        "vae": AutoencoderKL(**VAE, scaling_factor=shapes["scaling_factor"]),
        "text_encoder": transformers.CLIPTextModel(towers[0]),
        "tokenizer": None,
        "unet": UNet2DConditionModel(sample_size=shapes["latents"], **shapes["unet"]),
        "scheduler": stable_diffusion_ddim(shapes["prediction"]),
    }
    if len(towers) == 2:
        second = transformers.CLIPTextModelWithProjection(towers[1])
        pipe = StableDiffusionXLPipeline(**parts, text_encoder_2=second, tokenizer_2=None)
    else:
        nothing = {"safety_checker": None, "feature_extractor": None}
        pipe = StableDiffusionPipeline(**parts, **nothing, requires_safety_checker=False)
    pipe.save_pretrained(directory)


def run(directory: Path, family: str, dtype: str, steps: int) -> dict[str, float]:
    """Load, sample and decode; results go to files, the numbers of the run are returned."""
    inputs = dict(np.load(directory / "inputs.npz"))
    compute, large = getattr(torch, dtype), len(FAMILIES[family]["text"]) == 2
    begin = time.perf_counter()
    cls = StableDiffusionXLPipeline if large else StableDiffusionPipeline
    nothing = {"tokenizer": None} | ({"tokenizer_2": None} if large else {"safety_checker": None})
    pipe = cls.from_pretrained(directory, torch_dtype=compute, **nothing)
    loaded = time.perf_counter()
    pipe.unet.to(memory_format=torch.channels_last)
    x = torch.tensor(inputs["x"]).permute(0, 3, 1, 2).to(compute)
    seconds = []
    with torch.no_grad():
        context, added = _condition(pipe, torch.tensor(inputs["ids"]).long(), large, x.shape[-1])
        pipe.scheduler.set_timesteps(steps)
        for t in pipe.scheduler.timesteps:
            start = time.perf_counter()
            both = pipe.unet(torch.cat([x, x]), t, context, added_cond_kwargs=added).sample
            cond, uncond = both.chunk(2)
            x = pipe.scheduler.step(uncond + GUIDANCE * (cond - uncond), t, x).prev_sample
            seconds.append(time.perf_counter() - start)
            if len(seconds) == 1:
                np.save(directory / "theirs_first.npy", x.permute(0, 2, 3, 1).float().numpy())
        np.save(directory / "theirs_latents.npy", x.permute(0, 2, 3, 1).float().numpy())
        start = time.perf_counter()
        picture = pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample
        decoded = time.perf_counter() - start
    np.save(directory / "theirs_picture.npy", picture.permute(0, 2, 3, 1).float().numpy())
    return {
        "load": loaded - begin,
        "compile": 0.0,
        "step": float(np.median(seconds)),
        "decode": decoded,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def _condition(
    pipe: StableDiffusionPipeline | StableDiffusionXLPipeline,
    ids: torch.Tensor,
    large: bool,
    latents: int,
) -> tuple:
    """Context and further conditions of ids [2 T], the prompt's and the negative prompt's."""
    if not large:
        return pipe.text_encoder(ids).last_hidden_state, None
    first = pipe.text_encoder(ids, output_hidden_states=True)
    second = pipe.text_encoder_2(ids, output_hidden_states=True)
    context = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
    side = float(latents * pipe.vae_scale_factor)
    sizes = torch.tensor([[side, side, 0, 0, side, side]] * 2, dtype=context.dtype)
    return context, {"text_embeds": second.text_embeds, "time_ids": sizes}
