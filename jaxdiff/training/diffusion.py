"""The diffusion objective: a text encoder and a UNet on the latents of a frozen autoencoder.

    L = w(t) |net(z_t, t, text(caption)) - target|^2                                             (1)

(Rombach et al. 2022, eq. 3), with z_0 of `latents.batch_latents`. The text encoder learns with the
UNet, from nothing or as a given one, or is given and stays as it is (see `given_text`).

Axis legend: B examples, h w latent pixels, Z latent channels, T tokens.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxdiff.convert.autoencoder import load_autoencoder
from jaxdiff.convert.model import Model, TextTower
from jaxdiff.convert.model_dir import load_model, save_model
from jaxdiff.convert.scheduler import NoiseConfig
from jaxdiff.data.sources import Source
from jaxdiff.diffusion.losses import diffusion_loss, make_levels, make_weighting
from jaxdiff.diffusion.prediction import Net
from jaxdiff.errors import UserError
from jaxdiff.models import (
    Autoencoder,
    AutoencoderConfig,
    SentenceEncoder,
    TextEncoder,
    TextEncoderConfig,
    UNet,
    example_inputs,
    network,
)
from jaxdiff.rng import named_keys
from jaxdiff.training.config import DiffusionObjective, LossConfig, TrainConfig
from jaxdiff.training.given_text import caption_data, given_tower, text_tower
from jaxdiff.training.latents import batch_latents, latent_data
from jaxdiff.training.objective import Objective, serve
from jaxdiff.training.preview import make_preview
from jaxdiff.training.step import Batch, LossFn, Metrics, Params, StepKeys
from jaxdiff.training.tokenizer import run_tokenizer


class Networks(NamedTuple):
    """The three networks of latent diffusion, without their parameters."""

    vae: Autoencoder
    unet: UNet
    text_encoder: TextEncoder | SentenceEncoder


def diffusion_objective(run: TrainConfig, source: Source, workdir: Path) -> Objective:
    """Build the objective.

    Args:
      run: the whole run.
      source: the data, whose captions a new tokenizer is trained on.
      workdir: where a tokenizer that is trained here is kept.

    Raises:
      UserError: the autoencoder, the text encoder or the tokenizer is missing or does not fit the
        networks.
    """
    config: DiffusionObjective = run.objective
    vae_config, vae_params = load_autoencoder(config.autoencoder)
    _check_sizes(run, vae_config)
    tower = text_tower(config)
    tokenizer = tower.tokenizer
    if isinstance(tower.config, TextEncoderConfig):
        place = config.text or config.tokenizer or config.init
        tokenizer = run_tokenizer(tower.config, place, source, workdir)
    networks = make_networks(run, vae_config, tower)
    data = latent_data(source, networks.vae, vae_params, run.data)
    captions = caption_data(run, tower, tokenizer, source)
    kept = {tower.name: tower.params} if tower.params else {}

    def as_model(params: Params, facts: dict) -> Model:
        text = tower._replace(params={**params, **kept}[tower.name], tokenizer=tokenizer)
        parts = config.unet, params["unet"], vae_config, vae_params, (text,)
        return Model(*parts, noise=config.noise, meta=facts)

    return Objective(
        init=start_networks(networks, tower),
        given=_start(config, tower),
        frozen={"vae": data.frozen, **captions.frozen},
        loss=latent_diffusion_loss(networks, config, run.data.batch_size),
        batches=serve(data.source, run.data, captions.read),
        keep=lambda workdir: tokenizer.save(workdir / "tokenizer"),
        preview=make_preview(
            run,
            as_model({"unet": {}, "text_encoder": {}}, {}),
            lambda params: {**params, **kept, "vae": vae_params},
        ),
        export=lambda path, params, facts: save_model(path, as_model(params, about(run, facts))),
        inputs={**data.inputs, **captions.inputs},
    )


def about(run: TrainConfig, facts: dict) -> dict:
    """What an exported model says of itself."""
    return {
        "name": run.name,
        "licence": run.licence,
        "sampling": {"guidance_scale": run.preview.guidance_scale},
        "training": facts,
    }


def _check_sizes(run: TrainConfig, vae: AutoencoderConfig) -> None:
    """Refuse latents or pictures of another size than the UNet's."""
    config: DiffusionObjective = run.objective
    unet, factor = config.unet, vae.downscale
    if vae.latent_channels != unet.in_channels:
        raise UserError(
            f"objective.unet.in_channels={unet.in_channels}, but the latents of "
            f"{config.autoencoder} have {vae.latent_channels} channels"
        )
    if run.data.resolution != unet.sample_size * factor:
        raise UserError(
            f"data.resolution={run.data.resolution}, but objective.unet.sample_size="
            f"{unet.sample_size} is for {unet.sample_size * factor} pixels"
        )


def make_networks(run: TrainConfig, vae: AutoencoderConfig, text: TextTower) -> Networks:
    """The networks of a run."""
    dtype = jnp.dtype(run.dtype)
    unet = UNet(run.objective.unet, dtype)
    return Networks(Autoencoder(vae, dtype), unet, network(text.config, dtype))


def start_networks(networks: Networks, text: TextTower) -> Callable:
    """(key, given) -> parameters of the UNet and the text encoder: those given, or else fresh ones.

    Those of a text encoder that keeps its parameters are left out.
    """
    learn = {"unet": networks.unet}
    if not text.params:
        learn["text_encoder"] = networks.text_encoder

    def init(key: Key[Array, ""], given: Params) -> Params:
        keys = named_keys(key, "unet", "text_encoder")
        fresh = {
            name: network.init(keys[name], **example_inputs(network.config))["params"]
            for name, network in learn.items()
            if name not in given
        }
        return fresh | given

    return init


def latent_diffusion_loss(networks: Networks, config: DiffusionObjective, total: int) -> LossFn:
    """The loss (eq. 1) for batches of `total` examples over all devices."""
    squared_error = denoising_loss(config.loss, config.noise, total)

    def loss(params: Params, frozen: Params, batch: Batch, keys: StepKeys) -> tuple[Array, Metrics]:
        each = jax.vmap(lambda key: named_keys(key, "z", "loss", "dropout"))(keys.examples)
        masks = each["dropout"] if config.unet.dropout > 0 else None
        z0 = batch_latents(networks.vae, frozen["vae"], batch, each["z"])
        if "context" in batch:
            context = batch["context"].astype(jnp.float32)
        else:
            text = {"params": {**frozen, **params}["text_encoder"]}
            context = networks.text_encoder.apply(text, batch["tokens"]).last_hidden

        def net(z_t: Array, timestep: Array) -> Array:
            unet = {"params": params["unet"]}
            return networks.unet.apply(unet, z_t, timestep, context, dropout_keys=masks)

        return squared_error(net, z0, each["loss"], batch, keys), {}

    return loss


def denoising_loss(config: LossConfig, noise: NoiseConfig, total: int) -> Callable:
    """Build (net, z0 [B h w Z], keys [B], batch, step's keys) -> losses [B].

    Args:
      config: levels, weights and offset of the noise.
      noise: process and prediction.
      total: examples of a batch over all devices.
    """
    process, prediction = noise.process(), noise.prediction_row()
    levels = {"mean": config.level_mean, "std": config.level_std}
    if config.levels == "discrete":
        levels["n"] = noise.num_timesteps
    weighting = {"gamma": config.min_snr_gamma, "bias": config.sigmoid_bias}
    if config.weighting == "edm":
        weighting["sigma_data"] = noise.sigma_data
    level_sampler = make_levels(config.levels, **_given(levels))
    weights = make_weighting(config.weighting, **_given(weighting))

    def losses(
        net: Net, z0: Array, keys: Key[Array, " B"], batch: Batch, step: StepKeys
    ) -> Float[Array, " B"]:
        return diffusion_loss(
            net,
            process,
            prediction,
            z0,
            keys,
            levels=level_sampler,
            weighting=weights,
            noise_offset=config.noise_offset,
            batch_key=named_keys(step.step, "levels")["levels"],
            index=batch["example"] % total,
            total=total,
        )

    return losses


def _start(config: DiffusionObjective, text: TextTower) -> Params:
    """What training begins with: networks of `config.init`, a text encoder that learns on, or {}.

    Those of `config.init` must be as the config says, but for its text encoder where another one is
    given.
    """
    begun = {text.name: given_tower(config).params} if config.text_learns else {}
    if config.init is None:
        return begun
    model = load_model(config.init)
    ours = config.unet
    unet = dataclasses.replace(
        model.unet_config, remat=ours.remat, attention=ours.attention, dropout=ours.dropout
    )
    for name, here, there in (
        ("unet", ours, unet),
        ("text_encoder", text.config, model.text[0].config),
        ("noise", _trained(config.noise), _trained(model.noise)),
    ):
        if here != there and not (name == "text_encoder" and config.text is not None):
            raise UserError(f"objective.init={config.init}: its {name} is not objective.{name}")
    own = {"text_encoder": model.text[0].params} if config.text is None else {}
    return {"unet": model.unet_params} | own | begun


def _trained(noise: NoiseConfig) -> NoiseConfig:
    """The noise without what only sampling reads."""
    return dataclasses.replace(noise, spacing="trailing", steps_offset=0)


def _given(options: dict[str, float | None]) -> dict[str, float]:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}
