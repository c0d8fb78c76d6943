"""What a run trains, by shapes alone: nothing is computed, and of files only an autoencoder read.

Axis legend: B examples of a batch, R pixels of a side, T tokens, h w latent pixels.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff.convert.autoencoder import load_autoencoder
from jaxdiff.convert.model import Model, TextTower
from jaxdiff.errors import UserError
from jaxdiff.models import (
    Autoencoder,
    AutoencoderConfig,
    Remat,
    TextEncoder,
    TextEncoderConfig,
    UNetConfig,
    example_inputs,
)
from jaxdiff.training.autoencoder import autoencoder_loss
from jaxdiff.training.cache import storage_type
from jaxdiff.training.config import (
    AutoencoderObjective,
    ContrastiveObjective,
    DiffusionObjective,
    FinetuneObjective,
    ScratchMethod,
    SentenceObjective,
    TrainConfig,
)
from jaxdiff.training.contrastive import contrastive_loss, make_towers
from jaxdiff.training.diffusion import latent_diffusion_loss, make_networks, start_networks
from jaxdiff.training.finetune import finetune_loss
from jaxdiff.training.given_text import caption_shape, is_cached, text_tower
from jaxdiff.training.latents import ENCODER
from jaxdiff.training.methods import scratch
from jaxdiff.training.sentence import sentence_loss, start_student
from jaxdiff.training.step import LossFn, Params

SIZES = 6  # numbers of a picture's size conditioning
HEAD_WIDTH = 64  # of CLIP's text encoders


class Blueprint(NamedTuple):
    """A run in the abstract; all trees are of `jax.ShapeDtypeStruct`."""

    init: Callable[[Any], Params]
    """key -> parameters, to be traced and not run."""
    frozen: Params
    """Parameters that the loss reads and nobody trains."""
    loss: LossFn
    """Per-example loss and metrics."""
    batch: dict[str, jax.ShapeDtypeStruct]
    """A batch over all processes, [B ...] each."""


def blueprint(run: TrainConfig) -> Blueprint:
    """What `run` trains.

    Raises:
      UserError: its shapes are only known from files: a model to fine-tune, or text encoders whose
        states are not computed beforehand.
    """
    made = _MAKERS[type(run.objective)](run)
    rows = run.data.batch_size
    batch = {
        "example": jax.ShapeDtypeStruct((rows,), jnp.int32),
        "size": jax.ShapeDtypeStruct((rows, SIZES), jnp.int32),
    }
    return made._replace(batch=batch | {k: _rows(rows, v) for k, v in made.batch.items()})


def with_unet_options(run: TrainConfig, **options: Any) -> TrainConfig:
    """The run with other values of `remat` or `attention`; as it is where there is no UNet."""
    objective = run.objective
    if isinstance(objective, FinetuneObjective):
        objective = dataclasses.replace(objective, **options)
    elif isinstance(objective, DiffusionObjective):
        unet = dataclasses.replace(objective.unet, **options)
        objective = dataclasses.replace(objective, unet=unet)
    return dataclasses.replace(run, objective=objective)


def has_unet(run: TrainConfig) -> bool:
    """Whether `with_unet_options` changes anything."""
    return isinstance(run.objective, DiffusionObjective | FinetuneObjective)


def recomputes(run: TrainConfig) -> Remat:
    """What the run computes again in the backward pass."""
    return getattr(getattr(run.objective, "unet", run.objective), "remat", "none")


def _rows(count: int, row: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((count, *row.shape), row.dtype)


def _autoencoder(run: TrainConfig) -> Blueprint:
    config: AutoencoderObjective = run.objective
    model = Autoencoder(config.autoencoder, jnp.dtype(run.dtype))

    def init(key: Any) -> Params:
        return model.init(key, **example_inputs(config.autoencoder))["params"]

    return Blueprint(init, {}, autoencoder_loss(model, config), _picture(run))


def _diffusion(run: TrainConfig) -> Blueprint:
    config: DiffusionObjective = run.objective
    shape, params = load_autoencoder(config.autoencoder)
    tower = text_tower(config)
    networks = make_networks(run, shape, tower)
    batch = _latents(run, shape) if run.data.cache else _picture(run)
    encoder = {} if run.data.cache else {k: params[k] for k in ENCODER if k in params}
    text = {tower.name: tower.params} if tower.params and not is_cached(tower, run.data) else {}
    frozen = {"vae": encoder, **text}
    return Blueprint(
        init=lambda key: start_networks(networks, tower)(key, {}),
        frozen=jax.eval_shape(lambda: frozen),
        loss=latent_diffusion_loss(networks, config, run.data.batch_size),
        batch=batch | caption_shape(tower, run.data, run.dtype),
    )


def _contrastive(run: TrainConfig) -> Blueprint:
    towers = make_towers(run)
    tokens = (run.objective.text.max_position_embeddings,)
    batch = {"tokens": jax.ShapeDtypeStruct(tokens, jnp.int32)}
    return Blueprint(
        init=lambda key: towers.init(key, {}),
        frozen={},
        loss=contrastive_loss(towers, run.objective.smallest_crop),
        batch=batch | _picture(run),
    )


def _sentence(run: TrainConfig) -> Blueprint:
    config, dtype = run.objective.text, jnp.dtype(run.dtype)
    return Blueprint(
        init=lambda key: start_student(run)(key, {}),
        frozen={},
        loss=sentence_loss(TextEncoder(config, dtype)),
        batch=({} if run.data.source.startswith("text:") else _picture(run))
        | {
            "tokens": jax.ShapeDtypeStruct((config.max_position_embeddings,), jnp.int32),
            "wanted": jax.ShapeDtypeStruct((config.projection_dim,), jnp.float16),
        },
    )


def _scratch(run: TrainConfig) -> Blueprint:
    config: FinetuneObjective = run.objective
    if not isinstance(config.method, ScratchMethod):
        raise UserError(
            "a plan wants a preset that trains from scratch: what is fine-tuned is only known from "
            f"its files, objective.model={config.model}"
        )
    if not run.data.cache:
        raise UserError("a plan of this preset wants data.cache: latents and texts made beforehand")
    shape, unet = AutoencoderConfig(), config.method.unet
    model = Model(unet, {}, shape, {}, _towers(unet), config.method.noise)
    trained = scratch(run, model)
    kind = jnp.dtype(storage_type(run.dtype))
    tokens = model.text[0].config.max_position_embeddings
    batch = {"context": jax.ShapeDtypeStruct((tokens, unet.cross_attention_dim), kind)}
    if unet.addition_embed_type is not None:
        batch["pooled"] = jax.ShapeDtypeStruct((_pooled_width(unet),), kind)
    return Blueprint(
        init=lambda key: trained.init(key, {}),
        frozen={"vae": {}},
        loss=finetune_loss(run, trained, Autoencoder(shape, jnp.dtype(run.dtype))),
        batch=batch | _latents(run, shape),
    )


def _towers(unet: UNetConfig) -> tuple[TextTower, ...]:
    """Text encoders, without parameters, whose states are as wide as a UNet wants them."""
    width = unet.cross_attention_dim
    if unet.addition_embed_type is None:
        return (_tower("text_encoder", width),)
    pooled = _pooled_width(unet)
    return (
        _tower("text_encoder", width - pooled),
        _tower("text_encoder_2", pooled, projection_dim=pooled),
    )


def _tower(name: str, width: int, **options: int) -> TextTower:
    """A text encoder with heads as wide as all published ones have."""
    heads = max(width // HEAD_WIDTH, 1)
    config = TextEncoderConfig(hidden_size=width, num_attention_heads=heads, **options)
    return TextTower(name, config, {}, None)


def _pooled_width(unet: UNetConfig) -> int:
    return unet.projection_class_embeddings_input_dim - SIZES * unet.addition_time_embed_dim


def _picture(run: TrainConfig) -> dict[str, jax.ShapeDtypeStruct]:
    side = run.data.resolution
    return {"image": jax.ShapeDtypeStruct((side, side, 3), jnp.uint8)}


def _latents(run: TrainConfig, vae: AutoencoderConfig) -> dict[str, jax.ShapeDtypeStruct]:
    side, kind = run.data.resolution // vae.downscale, jnp.dtype(storage_type(run.dtype))
    return {"moments": jax.ShapeDtypeStruct((side, side, 2 * vae.latent_channels), kind)}


_MAKERS: dict[type, Callable[[TrainConfig], Blueprint]] = {
    AutoencoderObjective: _autoencoder,
    ContrastiveObjective: _contrastive,
    DiffusionObjective: _diffusion,
    FinetuneObjective: _scratch,
    SentenceObjective: _sentence,
}
