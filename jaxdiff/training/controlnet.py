"""Training a ControlNet beside a frozen UNet (Zhang et al. 2023).

Axis legend: h w latent pixels, Z latent channels.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from jaxdiff.convert import Model
from jaxdiff.convert.controlnet import check_controlnet, load_controlnet, save_controlnet
from jaxdiff.data.sources import Source
from jaxdiff.models import (
    ControlNet,
    controlnet_config,
    copy_trunk,
    example_inputs,
)
from jaxdiff.training.config import ControlNetMethod, TrainConfig
from jaxdiff.training.methods import Trained, make_unet, parameters
from jaxdiff.training.preview import Steering
from jaxdiff.training.step import Batch, Params

EMBEDDING_CHANNELS = (16, 32, 96, 256)  # of a new ControlNet's picture, as published


def controlnet(run: TrainConfig, model: Model, source: Source) -> Trained:
    """A ControlNet beside the frozen UNet; it changes nothing at first, unless it was given."""
    config: ControlNetMethod = run.objective.method
    unet = make_unet(run, model)
    if config.init is None:
        levels = model.vae_config.downscale.bit_length()
        channels = EMBEDDING_CHANNELS[:levels]
        shape = controlnet_config(model.unet_config, conditioning_embedding_out_channels=channels)
        trunk = jax.tree.map(lambda x: np.asarray(x, np.float32), model.unet_params)
        start = {"trunk": trunk}
    else:
        shape, params = load_controlnet(config.init)
        check_controlnet(shape, model, str(config.init))
        start = {"controlnet": params}
    options = {"remat": run.objective.remat, "attention": run.objective.attention}
    net = ControlNet(dataclasses.replace(shape, **options), jnp.dtype(run.dtype))

    def init(key: Key[Array, ""], given: Params) -> Params:
        if "controlnet" in given:
            return given
        fresh = net.init(key, **example_inputs(shape))["params"]
        return {"controlnet": copy_trunk(fresh, given["trunk"])}

    def predict(
        params: Params, frozen: Params, batch: Batch, *inputs: Any
    ) -> Float[Array, "B h w Z"]:
        z_t, timestep, context, added = inputs
        picture = batch["conditioning"].astype(jnp.float32) / 255
        variables = {"params": params["controlnet"]}
        residuals = net.apply(variables, z_t, timestep, context, picture, added)
        return unet.apply({"params": frozen["unet"]}, *inputs, residuals=residuals)

    whole = parameters(model)
    return Trained(
        model=model,
        init=init,
        given=start,
        frozen=whole,
        trains_text=False,
        towers=lambda params, frozen: {t.name: frozen[t.name] for t in model.text},
        predict=predict,
        networks=lambda params: {**whole, "controlnet_0": params["controlnet"]},
        export=lambda path, params, facts: save_controlnet(path, shape, params["controlnet"]),
        steering=Steering(shape, _first_pictures(source, len(run.preview.prompts))),
    )


def _first_pictures(source: Source, count: int) -> UInt8[np.ndarray, "N H W 3"]:
    """The first conditioning pictures, at least one, those of the first one's size."""
    found = [source[i]["conditioning"] for i in range(min(len(source), max(1, count)))]
    return np.stack([picture for picture in found if picture.shape == found[0].shape])
