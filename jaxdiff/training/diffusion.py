"""The diffusion objective: a text encoder and a UNet on the latents of a frozen autoencoder.

    z_0 = s (mean(x) + std(x) n),   L = w(t) |net(z_t, t, text(caption)) - target|^2             (1)

(Rombach et al. 2022, eq. 3), with the scale s of the autoencoder's config.

Axis legend: B examples, h w latent pixels, Z latent channels, T tokens.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from jaxdiff.convert.autoencoder import load_autoencoder
from jaxdiff.convert.model import Model, TextTower
from jaxdiff.convert.model_dir import load_model, save_model
from jaxdiff.convert.scheduler import NoiseConfig
from jaxdiff.data.sources import Source, captions_of
from jaxdiff.data.tokenizer import Tokenizer
from jaxdiff.diffusion.losses import (
    Levels,
    Weighting,
    diffusion_loss,
    make_levels,
    make_weighting,
)
from jaxdiff.errors import UserError
from jaxdiff.models import Autoencoder, TextEncoder, UNet
from jaxdiff.models.autoencoder import from_uint8
from jaxdiff.pipelines.text_to_image import TextToImage
from jaxdiff.rng import named_keys, normal_each
from jaxdiff.training.config import DiffusionObjective, TrainConfig
from jaxdiff.training.objective import Objective, tile
from jaxdiff.training.step import Batch, LossFn, Metrics, Params, StepKeys


class Networks(NamedTuple):
    """The three networks of latent diffusion, without their parameters."""

    vae: Autoencoder
    unet: UNet
    text_encoder: TextEncoder
    latent_shape: tuple[int, int, int]
    """(h, w, Z)."""

    @property
    def num_tokens(self) -> int:
        """Tokens T of an encoded caption."""
        return self.text_encoder.config.max_position_embeddings


def diffusion_objective(
    config: DiffusionObjective,
    run: TrainConfig,
    source: Source,
    dtype: jnp.dtype,
    workdir: Path,
) -> Objective:
    """Build the objective.

    Args:
      config: networks, noise and weighting.
      run: the whole run, for its batch and its preview.
      source: the data, whose captions a new tokenizer is trained on.
      dtype: compute type.
      workdir: where a tokenizer that is trained here is kept.

    Raises:
      UserError: the autoencoder or the tokenizer is missing or does not fit the networks.
    """
    vae_config, vae_params = load_autoencoder(config.autoencoder)
    if vae_config.latent_channels != config.unet.in_channels:
        raise UserError(
            f"objective.unet.in_channels={config.unet.in_channels}, but the latents of "
            f"{config.autoencoder} have {vae_config.latent_channels} channels"
        )
    factor = vae_config.downscale
    if run.data.resolution != config.unet.sample_size * factor:
        raise UserError(
            f"data.resolution={run.data.resolution}, but objective.unet.sample_size="
            f"{config.unet.sample_size} is for {config.unet.sample_size * factor} pixels"
        )
    tokenizer = _tokenizer(config, source, workdir)
    size = run.data.resolution // vae_config.downscale
    networks = Networks(
        Autoencoder(vae_config, dtype),
        UNet(config.unet, dtype),
        TextEncoder(config.text_encoder, dtype),
        (size, size, vae_config.latent_channels),
    )

    def as_model(params: Params, facts: dict) -> Model:
        name = "text_encoder"
        tower = TextTower(name, config.text_encoder, params[name], tokenizer)
        return Model(
            config.unet,
            params["unet"],
            vae_config,
            vae_params,
            text=(tower,),
            noise=config.noise,
            meta=facts,
        )

    def export(directory: Path, params: Params, facts: dict) -> None:
        meta = {
            "name": run.name,
            "licence": run.licence,
            "sampling": {"guidance_scale": run.preview.guidance_scale},
            "training": facts,
        }
        save_model(directory, as_model(params, meta))

    if config.init is None:
        init = jax.jit(functools.partial(init_networks, networks))
    else:
        start = _start(config)
        init = lambda key: start  # noqa: E731
    preview = _preview(run, as_model({"unet": {}, "text_encoder": {}}, {}))
    loss = latent_diffusion_loss(networks, config, run.data.batch_size)

    def keep(workdir: Path) -> None:
        tokenizer.save(workdir / "tokenizer")

    return Objective(init, vae_params, loss, tokenizer, keep, preview, export)


def init_networks(networks: Networks, key: Key[Array, ""]) -> Params:
    """Fresh parameters of the UNet and the text encoder."""
    keys = named_keys(key, "unet", "text_encoder")
    ids = jnp.zeros((1, networks.num_tokens), jnp.int32)
    context = jnp.zeros((*ids.shape, networks.text_encoder.config.hidden_size))
    z = jnp.zeros((1, *networks.latent_shape))
    return {
        "unet": networks.unet.init(keys["unet"], z, jnp.zeros(1), context)["params"],
        "text_encoder": networks.text_encoder.init(keys["text_encoder"], ids)["params"],
    }


def encode(
    networks: Networks,
    params: Params,
    images: UInt8[Array, "B H W 3"],
    keys: Key[Array, " B"],
) -> Float[Array, "B h w Z"]:
    """A sample of q(z | x) per picture from its own key, scaled to unit variance (eq. 1, left)."""
    mean, log_variance = networks.vae.apply({"params": params}, from_uint8(images), method="encode")
    noise = normal_each(keys, networks.latent_shape)
    return networks.vae.config.scaling_factor * (mean + jnp.exp(0.5 * log_variance) * noise)


def latent_diffusion_loss(networks: Networks, config: DiffusionObjective, total: int) -> LossFn:
    """The loss (eq. 1, right) for batches of `total` examples over all devices."""
    process, prediction = config.noise.process(), config.noise.prediction_row()
    levels, weighting = _levels(config), _weighting(config)

    def loss(params: Params, frozen: Params, batch: Batch, keys: StepKeys) -> tuple[Array, Metrics]:
        each = jax.vmap(lambda key: named_keys(key, "z", "loss", "dropout"))(keys.examples)
        masks = each["dropout"] if config.unet.dropout > 0 else None
        z0 = encode(networks, frozen, batch["image"], each["z"])
        text = {"params": params["text_encoder"]}
        context = networks.text_encoder.apply(text, batch["tokens"]).last_hidden

        def net(z_t: Array, timestep: Array) -> Array:
            unet = {"params": params["unet"]}
            return networks.unet.apply(unet, z_t, timestep, context, dropout_keys=masks)

        losses = diffusion_loss(
            net,
            process,
            prediction,
            z0,
            each["loss"],
            levels=levels,
            weighting=weighting,
            batch_key=named_keys(keys.step, "levels")["levels"],
            index=batch["example"] % total,
            total=total,
        )
        return losses, {}

    return loss


def _start(config: DiffusionObjective) -> Params:
    """The networks of the model directory `config.init`, which must be as the config says."""
    model = load_model(config.init)
    ours = config.unet
    unet = dataclasses.replace(
        model.unet_config, remat=ours.remat, attention=ours.attention, dropout=ours.dropout
    )
    for name, here, there in (
        ("unet", ours, unet),
        ("text_encoder", config.text_encoder, model.text[0].config),
        ("noise", _trained(config.noise), _trained(model.noise)),
    ):
        if here != there:
            raise UserError(f"objective.init={config.init}: its {name} is not objective.{name}")
    return {"unet": model.unet_params, "text_encoder": model.text[0].params}


def _trained(noise: NoiseConfig) -> NoiseConfig:
    """The noise without what only sampling reads."""
    return dataclasses.replace(noise, spacing="trailing", steps_offset=0)


def _preview(run: TrainConfig, model: Model) -> Callable[[Params], np.ndarray | None]:
    """Draw every prompt with every seed, by the pipeline that sampling uses."""
    config, pipe = run.preview, TextToImage(model, dtype=run.dtype)
    seeds = np.repeat(np.arange(config.rows), len(config.prompts)).tolist()
    prompts = list(config.prompts) * config.rows

    def preview(params: Params) -> np.ndarray | None:
        if not prompts:
            return None
        pipe.replace(**params)
        images = pipe(
            prompts,
            seeds,
            sampler="ddim",
            num_steps=config.num_steps,
            guidance_scale=config.guidance_scale,
        )
        return tile(images, len(config.prompts))

    return preview


def _levels(config: DiffusionObjective) -> Levels:
    options = {"mean": config.level_mean, "std": config.level_std}
    if config.levels == "discrete":
        options["n"] = config.noise.num_timesteps
    return make_levels(config.levels, **_given(options))


def _weighting(config: DiffusionObjective) -> Weighting:
    options = {"gamma": config.min_snr_gamma, "bias": config.sigmoid_bias}
    if config.weighting == "edm":
        options["sigma_data"] = config.noise.sigma_data
    return make_weighting(config.weighting, **_given(options))


def _given(options: dict[str, float | None]) -> dict[str, float]:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def _tokenizer(config: DiffusionObjective, source: Source, workdir: Path) -> Tokenizer:
    """The tokenizer of the config or of the run so far, or one trained on the captions.

    Training it again gives the same one, but it is kept in case the captions change.
    """
    text = config.text_encoder
    kept, given = workdir / "tokenizer", config.tokenizer or config.init
    if given is not None:
        tokenizer = Tokenizer.load(given / "tokenizer")
    elif kept.is_dir():
        tokenizer = Tokenizer.load(kept)
    else:
        captions = sorted(set(captions_of(source)))
        tokenizer = Tokenizer.train(captions, text.vocab_size, text.max_position_embeddings)
    wrong = [
        f"objective.text_encoder.{field}={ours}, the tokenizer's is {theirs}"
        for field, ours, theirs in (
            ("vocab_size", text.vocab_size, tokenizer.vocab_size),
            ("eos_token_id", text.eos_token_id, tokenizer.eos_id),
            ("max_position_embeddings", text.max_position_embeddings, tokenizer.max_length),
        )
        if ours != theirs
    ]
    if wrong:
        raise UserError(f"{'; '.join(wrong)}; set the fields to the tokenizer's")
    return tokenizer
