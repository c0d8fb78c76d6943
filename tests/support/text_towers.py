"""Text encoders of every family, scaled down, here and in transformers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from torch_parity import loaded, scattered

from jaxdiff.convert import Model, NoiseConfig, TextTower
from jaxdiff.convert.configs import TEXT_ENCODER
from jaxdiff.data.tokenizer import Tokenizer
from jaxdiff.models import AutoencoderConfig, TextEncoderConfig, UNetConfig, parameter_shapes
from jaxdiff.pipelines.encode import encode_text
from jaxdiff.pipelines.prompts import tokenize_prompts

LENGTH = 12
LAYERS = 4
PROJECTION = 20
# Towers of each family: (class, activation, width, the padding token).
_FIRST = ("CLIPTextModel", "quick_gelu", 16, "<|endoftext|>")
_SECOND = ("CLIPTextModelWithProjection", "gelu", 24, "!")
FAMILIES = {
    "sd": {"text_encoder": _FIRST},
    "sd2": {"text_encoder": ("CLIPTextModel", "gelu", 24, "!")},
    "sdxl": {"text_encoder": _FIRST, "text_encoder_2": _SECOND},
    "sdxl-refiner": {"text_encoder_2": _SECOND},
}
TOKENIZER = Tokenizer.train(["a red heart", "cat face, noto style"] * 3, 540, LENGTH)


def assemble(towers):
    """A model of these towers, whose UNet and autoencoder are shapes alone."""
    large = any(tower.name == "text_encoder_2" for tower in towers)
    sizes = 6 if len(towers) > 1 else 5
    options = dict(
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=sizes * 8 + PROJECTION,
    )
    width = sum(tower.config.hidden_size for tower in towers)
    unet = UNetConfig(cross_attention_dim=width, **options if large else {})
    return Model(unet, {}, AutoencoderConfig(), {}, tuple(towers), NoiseConfig())


def encode(model, prompts, clip_skip=0, max_chunks=1):
    """The condition of prompts, jitted."""
    tokens = [
        tokenize_prompts(tower.tokenizer, prompts, max_chunks=max_chunks)[0] for tower in model.text
    ]
    params = {tower.name: tower.params for tower in model.text}
    function = functools.partial(encode_text, model, jnp.float32, clip_skip=clip_skip)
    return jax.jit(function)(params, tuple(tokens))


def random_model(family):
    """Towers of random weights, made here."""
    rng = np.random.default_rng(0)
    towers = []
    for name, (_, act, width, pad) in FAMILIES[family].items():
        config = TextEncoderConfig(
            vocab_size=TOKENIZER.vocab_size,
            hidden_size=width,
            intermediate_size=32,
            num_hidden_layers=LAYERS - 1,
            num_attention_heads=2,
            max_position_embeddings=LENGTH,
            hidden_act=act,
            eos_token_id=TOKENIZER.eos_id,
            projection_dim=PROJECTION if pad == "!" else None,
        )
        shapes = parameter_shapes(config)
        params = jax.tree.map(lambda leaf: 0.3 * rng.normal(size=leaf.shape).astype("f"), shapes)
        tokenizer = Tokenizer(TOKENIZER.vocab, TOKENIZER.merges, LENGTH, pad)
        towers.append(TextTower(name, config, params, tokenizer))
    return assemble(towers)


def reference(family, root):
    """(our model, transformers' text encoders and tokenizers by diffusers' names)."""
    import transformers

    towers, theirs = [], {"text_encoder": None, "tokenizer": None}
    for name, (class_name, act, width, pad) in FAMILIES[family].items():
        folder = root / name
        Tokenizer(TOKENIZER.vocab, TOKENIZER.merges, LENGTH, pad).save(folder)
        shape = transformers.CLIPTextConfig(
            vocab_size=TOKENIZER.vocab_size,
            hidden_size=width,
            intermediate_size=32,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            max_position_embeddings=LENGTH,
            projection_dim=PROJECTION,
            hidden_act=act,
            eos_token_id=TOKENIZER.eos_id,
        )
        module = scattered(functools.partial(getattr(transformers, class_name), shape))
        tower = TextTower(name, *loaded(module, folder, TEXT_ENCODER), Tokenizer.load(folder))
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
        towers.append(tower)
        theirs |= {name: module, name.replace("text_encoder", "tokenizer"): tokenizer}
    return assemble(towers), theirs


def stable_diffusion(theirs):
    """diffusers' pipeline of these text encoders and nothing else."""
    import diffusers

    inner = theirs["text_encoder"]
    if not hasattr(inner, "text_model"):  # diffusers wants what transformers 5 has merged
        object.__setattr__(inner, "text_model", inner)
    options = dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    return diffusers.StableDiffusionPipeline(
        vae=None, unet=None, scheduler=None, **options, **theirs
    )


def stable_diffusion_xl(theirs):
    """The same for SDXL, or its refiner where there is no first text encoder."""
    import diffusers

    cls = (
        diffusers.StableDiffusionXLImg2ImgPipeline
        if theirs["text_encoder"] is None
        else diffusers.StableDiffusionXLPipeline
    )
    return cls(vae=None, unet=None, scheduler=None, add_watermarker=False, **theirs)
