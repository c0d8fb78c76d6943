"""The objective of fine-tuning: a loaded model, a part of which is trained, on its own latents.

Axis legend: B examples, h w latent pixels, Z latent channels.
"""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxdiff.convert import Model, NoiseConfig, load_model, model_hash
from jaxdiff.convert.scheduler import to_scheduler_config
from jaxdiff.data.sources import Source, make_source
from jaxdiff.data.wordpieces import load_tokenizer
from jaxdiff.errors import UserError
from jaxdiff.models import Autoencoder
from jaxdiff.rng import named_keys
from jaxdiff.training.captions import caption_data, text_inputs
from jaxdiff.training.config import (
    ControlNetMethod,
    FinetuneObjective,
    FullMethod,
    LoraMethod,
    ScratchMethod,
    TextualInversionMethod,
    TrainConfig,
)
from jaxdiff.training.controlnet import controlnet
from jaxdiff.training.diffusion import denoising_loss
from jaxdiff.training.distil import distil_loss, with_teacher
from jaxdiff.training.inversion import textual_inversion
from jaxdiff.training.latents import batch_latents, latent_data
from jaxdiff.training.methods import STUDENT_SCHEDULE, Trained, full, lora, scratch
from jaxdiff.training.objective import Objective, Serve, serve
from jaxdiff.training.preview import make_preview
from jaxdiff.training.prior import draw_prior, paired, prior_config
from jaxdiff.training.step import Batch, LossFn, Metrics, Params, StepKeys

log = logging.getLogger(__name__)

FAMILIES = ("sd", "sdxl")
METHODS: dict[type, Callable[[TrainConfig, Model, Source], Trained]] = {
    FullMethod: full,
    ScratchMethod: scratch,
    LoraMethod: lora,
    TextualInversionMethod: textual_inversion,
    ControlNetMethod: controlnet,
}


def finetune_objective(run: TrainConfig, source: Source, workdir: Path) -> Objective:
    """Build the objective; `workdir` keeps nothing more.

    Raises:
      UserError: the model cannot be loaded or is of a family that is not trained here, or the
        method does not fit the model or the data.
    """
    config: FinetuneObjective = run.objective
    model = _load(run)
    noise = _asked_noise(config, model.noise)
    draw_prior(run, model)  # by the model as it is: it predicts what it was trained to
    model = dataclasses.replace(model, noise=noise)
    trained = METHODS[type(config.method)](run, model, source)
    if config.distil.levels:
        trained = with_teacher(run, trained)
    model = trained.model
    vae = Autoencoder(model.vae_config, jnp.dtype(run.dtype))
    sources = {"latents": (source, run.data)}
    if config.prior.folder is not None:
        halves = prior_config(run)
        ours = dataclasses.replace(run.data, batch_size=halves.batch_size)
        sources = {"latents": (source, ours), "prior latents": (make_source(halves), halves)}
    captions = caption_data(run, trained, [each for each, _ in sources.values()])
    data = {
        part: latent_data(each, vae, model.vae_params, served, part)
        for part, (each, served) in sources.items()
    }
    streams: list[Serve] = [
        serve(data[part].source, served, captions.read) for part, (_, served) in sources.items()
    ]
    unused = [tower.name for tower in model.text] if captions.cached else []
    frozen = {name: tree for name, tree in trained.frozen.items() if name not in unused}
    inputs = {"model": model_hash(config.model), **captions.inputs}
    for each in data.values():
        inputs |= each.inputs
    return Objective(
        init=trained.init,
        given=trained.given,
        frozen={**frozen, "vae": data["latents"].frozen},
        loss=(distil_loss if config.distil.levels else finetune_loss)(run, trained, vae),
        batches=paired(*streams, config.prior.weight) if len(streams) > 1 else streams[0],
        keep=lambda workdir: None,
        preview=make_preview(
            run,
            model,
            lambda params: {**trained.networks(params), "vae": model.vae_params},
            trained.steering,
            schedule=STUDENT_SCHEDULE if config.distil.levels else None,
        ),
        export=trained.export,
        inputs=inputs,
    )


def finetune_loss(run: TrainConfig, trained: Trained, vae: Autoencoder) -> LossFn:
    """The denoising loss per example, times its weight where the batch has one."""
    model = trained.model
    squared_error = denoising_loss(run.objective.loss, model.noise, run.data.batch_size)

    def loss(params: Params, frozen: Params, batch: Batch, keys: StepKeys) -> tuple[Array, Metrics]:
        each = jax.vmap(lambda key: named_keys(key, "z", "loss"))(keys.examples)
        z0 = batch_latents(vae, frozen["vae"], batch, each["z"])
        text, added = text_inputs(run, trained, params, frozen, batch)

        def net(z_t: Array, timestep: Array) -> Array:
            return trained.predict(params, frozen, batch, z_t, timestep, text.context, added)

        losses = squared_error(net, z0, each["loss"], batch, keys)
        return losses * batch.get("weight", 1.0), {}

    return loss


def _load(run: TrainConfig) -> Model:
    """The model to train, as it is.

    Frozen networks are held in the compute type; what is trained whole, in float32.
    """
    config: FinetuneObjective = run.objective
    whole = isinstance(config.method, FullMethod)
    model = load_model(
        config.model,
        load_tokenizer,
        dtype=np.float32 if whole else jnp.dtype(run.dtype),
        tokenizer_dir=config.tokenizer_dir,
    )
    if model.family not in FAMILIES or model.unet_config.time_cond_proj_dim is not None:
        raise UserError(
            f"objective.model={config.model} is of the family {model.family}; only "
            f"{' and '.join(FAMILIES)} can be fine-tuned, and no distilled (LCM) model"
        )
    words = isinstance(config.method, TextualInversionMethod)
    if words or getattr(config.method, "text_encoder", False):
        model.require_clip("training a text encoder or its words")
    trained = config.method.unet if isinstance(config.method, ScratchMethod) else model.unet_config
    own = trained.sample_size * model.vae_config.downscale
    if run.data.resolution != own:
        log.warning(
            "data.resolution=%d, but the UNet of %s is for pictures of %d",
            run.data.resolution,
            config.model,
            own,
        )
    return model


def _asked_noise(config: FinetuneObjective, noise: NoiseConfig) -> NoiseConfig:
    """The model's noise with what the config changes.

    A last level of pure noise is of use to sampling that begins there, as the grid "trailing" does
    (Lin et al. 2023, section 3.3).
    """
    asked = {"prediction": config.prediction, "zero_terminal_snr": config.zero_terminal_snr}
    given = {name: value for name, value in asked.items() if value is not None}
    if config.zero_terminal_snr and not noise.zero_terminal_snr:
        given["spacing"] = "trailing"
    noise = dataclasses.replace(noise, **given)
    to_scheduler_config(noise)  # which refuses what could not be exported
    return noise
