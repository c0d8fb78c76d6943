"""The PyTorch side: diffusers' networks and pipeline, eager or through `torch.compile`.

Axis legend: B batch, h w latent pixels, T tokens, D text width; torch has channels second.
"""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)

from benchmarks.shapes import GUIDANCE, STEPS, Shapes, unet_options

Inputs = dict[str, np.ndarray]
Run = Callable[[], np.ndarray]
LEARNING_RATE = 1e-4


def stable_diffusion_ddim(prediction: str = "epsilon") -> DDIMScheduler:
    """DDIM on Stable Diffusion's noise, as its model directories set it."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    )


def make_reference(directory: Path, shapes: Shapes) -> None:
    """Write a model directory with random weights."""
    torch.manual_seed(0)
    end = shapes.text["vocab_size"] - 1
    levels = len(shapes.vae_channels)
    text = transformers.CLIPTextConfig(
        **shapes.text, projection_dim=32, bos_token_id=end - 1, eos_token_id=end, pad_token_id=1
    )
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=shapes.vae_channels,
            layers_per_block=2,
            norm_num_groups=shapes.groups,
        ),
        text_encoder=transformers.CLIPTextModel(text),
        tokenizer=None,
        unet=UNet2DConditionModel(**unet_options(shapes)),
        scheduler=stable_diffusion_ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(directory)


def prepare(directory: Path, inputs: Inputs, *, compiled: bool, device: str, dtype: str) -> dict:
    """Every row as a function that does the work and returns its result as float32 numpy."""
    torch.set_float32_matmul_precision("highest")
    pipe = StableDiffusionPipeline.from_pretrained(
        directory, torch_dtype=getattr(torch, dtype), safety_checker=None, tokenizer=None
    ).to(device)
    pipe.set_progress_bar_config(disable=True)
    for part in (pipe.unet, pipe.vae):
        part.to(memory_format=torch.channels_last)
    trained = copy.deepcopy(pipe.unet)  # the other rows keep their weights
    if compiled:
        trained = torch.compile(trained, dynamic=False)
        pipe.text_encoder = torch.compile(pipe.text_encoder, dynamic=False)
        pipe.unet = torch.compile(pipe.unet, dynamic=False)
        pipe.vae.decode = torch.compile(pipe.vae.decode, dynamic=False)
    tensors = {name: _tensor(array, device, dtype) for name, array in inputs.items()}
    tensors["ids"] = tensors["ids"].long()
    return {
        "unet": _frozen(lambda: pipe.unet(tensors["x"], tensors["t"], tensors["context"]).sample),
        "train": _train(trained, tensors),
        "text": _frozen(lambda: pipe.text_encoder(tensors["ids"]).last_hidden_state),
        "decode": _frozen(lambda: pipe.vae.decode(tensors["z"]).sample),
        "picture": _frozen(lambda: _picture(pipe, tensors)),
    }


def _tensor(array: np.ndarray, device: str, dtype: str) -> torch.Tensor:
    tensor = torch.tensor(array, device=device)
    if tensor.ndim == 4:
        tensor = tensor.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    return tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    if tensor.ndim == 4:
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.detach().float().cpu().numpy()


def _frozen(call: Callable[[], torch.Tensor]) -> Run:
    def run() -> np.ndarray:
        with torch.no_grad():
            return _numpy(call())

    return run


def _picture(pipe: StableDiffusionPipeline, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """The pipeline from token ids: [1 3 H W] in [-1, 1]."""
    context = pipe.text_encoder(tensors["ids"]).last_hidden_state
    return (
        pipe(
            prompt_embeds=context[:1],
            negative_prompt_embeds=context[1:],
            latents=tensors["z"],
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            output_type="pt",
        )
        .images.mul(2)
        .sub(1)
    )


def _train(unet: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> Run:
    """A step of AdamW on the mean squared error; the result is its loss before it."""
    state: dict[str, torch.optim.Optimizer] = {}

    def run() -> np.ndarray:
        unet.train()
        if not state:
            state["adam"] = torch.optim.AdamW(
                unet.parameters(), LEARNING_RATE, weight_decay=0.01, fused=True
            )
        out = unet(tensors["train_x"], tensors["train_t"], tensors["train_context"]).sample
        loss = torch.nn.functional.mse_loss(out.float(), tensors["train_target"].float())
        loss.backward()
        state["adam"].step()
        state["adam"].zero_grad()
        return _numpy(loss)

    return run
