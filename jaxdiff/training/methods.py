"""What fine-tuning trains, and how that takes part in the networks: one function per method.

    full                the UNet's parameters are the trained ones
    scratch             so they are, of a UNet of another shape that starts anew
    LoRA                every changed layer adds its low-rank change to its output
    textual inversion   some rows of the text encoders' tables are the trained ones (inversion.py)
    ControlNet          the trained network adds residuals to the UNet's features (controlnet.py)

Axis legend: h w latent pixels, Z latent channels.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxdiff.convert import Model, save_model
from jaxdiff.convert.layout import FEW_STEPS
from jaxdiff.convert.lora import LORA_DRAWS, LORA_META, Lora, save_lora
from jaxdiff.data.sources import Source
from jaxdiff.models import UNet, example_inputs
from jaxdiff.models.lora import TARGETS, Layers, init_lora, intercept, merge
from jaxdiff.rng import named_keys
from jaxdiff.training.config import (
    FullMethod,
    LoraMethod,
    ScratchMethod,
    TrainConfig,
)
from jaxdiff.training.diffusion import about
from jaxdiff.training.preview import Steering
from jaxdiff.training.step import Batch, Params

Predict = Callable[..., Float[Array, "B h w Z"]]
"""(params, frozen, batch, z_t, timestep, context, added) -> what the network outputs."""

UNET_TARGETS = {
    "attention": TARGETS["attention"],
    "transformer": TARGETS["transformer"],
    "all": r"attentions_\d+/|resnets_\d+/|samplers_0/",
}
STUDENT_SCHEDULE = "trailing"  # a student learns between its levels, and so draws at them
TEXT_TARGETS = {"attention": TARGETS["text_attention"]}  # of the others: every layer


class Trained(NamedTuple):
    """A method, applied to a model."""

    model: Model
    """Shapes, tokenizers and noise, with what the method adds."""
    init: Callable[[Key[Array, ""], Params], Params]
    """(key, `given`) -> the parameters to train."""
    given: Params
    """What of the model they begin with."""
    frozen: Params
    """What else the loss needs, by the names of the parts: "unet" and text encoders."""
    trains_text: bool
    """Whether captions are encoded anew at every step."""
    towers: Callable[[Params, Params], Params]
    """(params, frozen) -> the text encoders' parameters by name."""
    predict: Predict
    """The network that the loss is taken of."""
    networks: Callable[[Params], Params]
    """Params -> the networks to draw with, by name, without the autoencoder."""
    export: Callable[[Path, Params, dict], None]
    """(path, params, facts): write what was trained."""
    changes: Callable[[Params], dict[str, Layers]] = lambda params: {}
    """Params -> LoRAs of the text encoders by name, which their layers add to their outputs."""
    steering: Steering | None = None
    """What a ControlNet is shown in previews."""


def parameters(model: Model) -> Params:
    """The parameters of the UNet and the text encoders, by name."""
    return {"unet": model.unet_params, **{tower.name: tower.params for tower in model.text}}


def with_parameters(model: Model, params: Params) -> Model:
    """The model with other parameters of the UNet and the text encoders, as in `parameters`."""
    text = tuple(tower._replace(params=params[tower.name]) for tower in model.text)
    return dataclasses.replace(model, unet_params=params["unet"], text=text)


def make_unet(run: TrainConfig, model: Model) -> UNet:
    """The model's UNet, computing as the run says."""
    config, options = model.unet_config, run.objective
    shape = dataclasses.replace(config, remat=options.remat, attention=options.attention)
    return UNet(shape, jnp.dtype(run.dtype))


def full(run: TrainConfig, model: Model, source: Source) -> Trained:
    """The whole UNet and, if asked for, the text encoders."""
    config: FullMethod = run.objective.method
    whole = parameters(model)
    names = tuple(whole) if config.text_encoder else ("unet",)
    start = {name: whole[name] for name in names}
    frozen = {name: whole[name] for name in whole if name not in names}
    return _whole(run, model, start, frozen)._replace(trains_text=config.text_encoder)


def scratch(run: TrainConfig, model: Model, source: Source | None = None) -> Trained:
    """A fresh UNet of the method's shape and noise, between the model's other parts.

    Raises:
      UserError: that shape does not go with the model's latents and text encoders.
    """
    config: ScratchMethod = run.objective.method
    model = dataclasses.replace(
        model, unet_config=config.unet, unet_params={}, noise=config.noise, unused={}
    )
    unet = make_unet(run, model)

    def init(key: Key[Array, ""], given: Params) -> Params:
        return {"unet": unet.init(key, **example_inputs(config.unet))["params"]}

    frozen = {tower.name: tower.params for tower in model.text}
    return _whole(run, model, {}, frozen)._replace(init=init)


def _whole(run: TrainConfig, model: Model, start: Params, frozen: Params) -> Trained:
    """Train a UNet, and what else `start` has, whole; `frozen` is the rest."""
    unet = make_unet(run, model)

    def predict(
        params: Params, frozen: Params, batch: Batch, *inputs: Any
    ) -> Float[Array, "B h w Z"]:
        return unet.apply({"params": params["unet"]}, *inputs)

    def export(path: Path, params: Params, facts: dict) -> None:
        tuned = with_parameters(model, {**frozen, **params})
        save_model(path, dataclasses.replace(tuned, meta=_descended(run, model, facts)))

    return Trained(
        model=model,
        init=lambda key, given: given,
        given=start,
        frozen=frozen,
        trains_text=False,
        towers=lambda params, frozen: {t.name: {**frozen, **params}[t.name] for t in model.text},
        predict=predict,
        networks=lambda params: {**frozen, **params},
        export=export,
    )


def _descended(run: TrainConfig, model: Model, facts: dict) -> dict[str, Any]:
    """What a fine-tuned model says of itself.

    How it draws best is inherited, but for few steps, and the licence where the run names none.
    """
    inherited = {key: model.meta[key] for key in ("licence", "sampling") if key in model.meta}
    if run.objective.distil.levels:
        inherited["sampling"] = _student_draws(run)
    own = {key: value for key, value in about(run, facts).items() if value and key != "sampling"}
    return {**inherited, **own}


def _student_draws(run: TrainConfig) -> dict[str, Any]:
    """The settings that a distilled student draws with: a step for each of its segments."""
    distil = run.objective.distil
    segments = distil.segments
    how = FEW_STEPS if segments == 1 else {"sampler": "ddim", "num_steps": segments}
    scale = distil.guidance_scale if distil.keeps_guidance else 1.0
    return {**how, "schedule": STUDENT_SCHEDULE, "guidance_scale": scale}


def lora(run: TrainConfig, model: Model, source: Source) -> Trained:
    """Low-rank changes of the UNet and, if asked for, the text encoders."""
    config: LoraMethod = run.objective.method
    whole, unet = parameters(model), make_unet(run, model)
    alpha = float(config.rank if config.alpha is None else config.alpha)
    targets = {"unet": UNET_TARGETS[config.targets]}
    if config.text_encoder:
        text_targets = TEXT_TARGETS.get(config.targets, "encoder/layers_")
        targets |= {tower.name: text_targets for tower in model.text}

    def init(key: Key[Array, ""], given: Params) -> Params:
        keys = named_keys(key, *targets)
        return {
            part: init_lora(keys[part], whole[part], pattern, config.rank, alpha)
            for part, pattern in targets.items()
        }

    def predict(
        params: Params, frozen: Params, batch: Batch, *inputs: Any
    ) -> Float[Array, "B h w Z"]:
        with intercept([(params["unet"], 1.0)]):
            return unet.apply({"params": frozen["unet"]}, *inputs)

    def merged(params: Params, base: Params) -> Params:
        return {name: merge(base[name], params.get(name, {}), 1.0) for name in base}

    def export(path: Path, params: Params, facts: dict) -> None:
        text = {tower.name: params.get(tower.name, {}) for tower in model.text}
        own = {key: value for key, value in about(run, facts).items() if key != "sampling"}
        if run.objective.distil.levels:
            own[LORA_DRAWS] = _student_draws(run)
        meta = {LORA_META: json.dumps(own)}
        save_lora(path, Lora(params["unet"], text, meta), model, layout=config.layout)

    return Trained(
        model=model,
        init=init,
        given={},
        frozen=whole,
        trains_text=config.text_encoder,
        towers=lambda params, frozen: {t.name: frozen[t.name] for t in model.text},
        predict=predict,
        networks=lambda params: merged(params, whole),
        export=export,
        changes=lambda params: {name: params[name] for name in params if name != "unet"},
    )
