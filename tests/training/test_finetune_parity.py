"""What was trained here draws the same picture in diffusers."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from short_training import train_shortly

from jaxdiff.convert import load_model
from jaxdiff.convert.embeddings import add_embeddings, load_embedding
from jaxdiff.convert.lora import load_lora
from jaxdiff.data.tokenizer import Tokenizer
from jaxdiff.pipelines.text_to_image import TextToImage
from jaxdiff.training.config import LoraMethod, TextualInversionMethod

pytestmark = pytest.mark.parity

OPTIONS = {"num_steps": 4, "guidance_scale": 3.0, "sampler": "ddim"}


@pytest.fixture
def theirs(tiny_model_dir):
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("torch")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        tiny_model_dir, safety_checker=None, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def trained(finetune_run, method, rate, tmp_path):
    """A file of a method after some steps."""
    optimizer = replace(finetune_run.optimizer, learning_rate=rate, warmup_steps=0)
    objective = replace(finetune_run.objective, method=method)
    run = train_shortly(replace(finetune_run, objective=objective, optimizer=optimizer), tmp_path)
    path = tmp_path / "trained.safetensors"
    run.objective.export(path, run.last, {"step": 12})
    return path


def compare(ours, theirs, prompt, base):
    """The same picture from the same noise, and not the base's."""
    import torch

    noise = np.random.default_rng(0).normal(size=(1, 8, 8, 4)).astype(np.float32)
    pixels = ours(prompt, [0], latents=noise, **OPTIONS)
    out = theirs(
        prompt,
        latents=torch.from_numpy(noise.transpose(0, 3, 1, 2)),
        num_inference_steps=OPTIONS["num_steps"],
        guidance_scale=OPTIONS["guidance_scale"],
        output_type="np",
    ).images
    expected = np.round(out * 255)
    assert np.abs(pixels.astype(float) - expected).max() <= 2
    assert (pixels != base(prompt, [0], latents=noise, **OPTIONS)).any()


@pytest.mark.parametrize("layout", ["diffusers", pytest.param("kohya", marks=pytest.mark.slow)])
def test_a_lora(finetune_run, theirs, tiny_model_dir, tmp_path, layout):
    pytest.importorskip("peft")
    method = LoraMethod(rank=2, targets="transformer", text_encoder=True, layout=layout)
    path = trained(finetune_run, method, 3e-2, tmp_path)
    ours, base = (TextToImage.load(tiny_model_dir) for _ in range(2))
    ours.set_loras([(path, 1.0)])
    theirs.load_lora_weights(str(tmp_path), weight_name=path.name)
    compare(ours, theirs, "a red toy", base)
    assert load_lora(path, load_model(tiny_model_dir)).text["text_encoder"]


def test_a_textual_inversion(finetune_run, theirs, tiny_model_dir, tmp_path):
    method = TextualInversionMethod(token="<toy>", vectors=2)
    path = trained(finetune_run, method, 0.3, tmp_path)
    ours, base = (TextToImage.load(tiny_model_dir) for _ in range(2))
    assert ours.add_embedding(path) == "<toy>"
    theirs.load_textual_inversion(str(tmp_path), weight_name=path.name)
    compare(ours, theirs, "a red <toy>", base)
    model = load_model(tiny_model_dir, Tokenizer.load)
    (tower,) = add_embeddings(model.text, load_embedding(path))
    assert tower.tokenizer.vocab_size == model.text[0].tokenizer.vocab_size + 2
    assert jax.tree.structure(tower.params) == jax.tree.structure(model.text[0].params)
