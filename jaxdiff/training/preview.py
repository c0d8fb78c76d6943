"""The grid of fixed prompts and seeds that is drawn while training."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxdiff.convert import Model
from jaxdiff.models import ControlNetConfig
from jaxdiff.pipelines.plan import sampling_grid
from jaxdiff.pipelines.settings import default_settings, with_changes
from jaxdiff.pipelines.text_to_image import TextToImage
from jaxdiff.training.config import TrainConfig
from jaxdiff.training.objective import tile
from jaxdiff.training.step import Params


class Steering(NamedTuple):
    """A ControlNet, and what it is shown."""

    config: ControlNetConfig
    """Its shape; its parameters are the network "controlnet_0"."""
    pictures: UInt8[np.ndarray, "N H W 3"]
    """For the first prompt, the second, ..., and from the beginning again."""


def make_preview(
    run: TrainConfig,
    model: Model,
    networks: Callable[[Params], Params],
    steering: Steering | None = None,
    *,
    schedule: str | None = None,
) -> Callable[[Params], np.ndarray | None]:
    """Draw every prompt with every seed, by the pipeline that sampling uses.

    Args:
      run: its preview and dtype.
      model: shapes, tokenizers and noise; its parameters are not used.
      networks: averaged parameters -> those of "unet", "vae" and each text encoder. They are on
        the devices while a grid is drawn, and no longer.
      steering: the ControlNet to draw with, if there is one.
      schedule: a name of `GRIDS`; None for the model's own.

    Returns:
      Averaged parameters -> a picture, or None where there are no prompts.

    Raises:
      UserError: the model's noise has no such steps.
    """
    config = run.preview
    if not config.prompts or not config.every:
        return lambda params: None
    how = {name: getattr(config, name) for name in ("sampler", "num_steps", "guidance_scale")}
    how["schedule"] = schedule
    settings = with_changes(default_settings(model), how)
    sampling_grid(model.noise, settings)  # now, and not when the first is due
    empty = {name: {} for name in ("unet", "vae", *(tower.name for tower in model.text))}
    towers = tuple(tower._replace(params={}) for tower in model.text)
    shapes = dataclasses.replace(model, unet_params={}, vae_params={}, text=towers)
    pipe, given = TextToImage(shapes, dtype=run.dtype), {}
    if steering is not None:
        pipe.add_controlnet((steering.config, {}))
        empty["controlnet_0"] = {}
        take = np.arange(len(config.prompts) * config.rows) % len(config.prompts)
        given["control_images"] = [steering.pictures[take % len(steering.pictures)]]
    seeds = np.repeat(np.arange(config.rows), len(config.prompts)).tolist()
    prompts = list(config.prompts) * config.rows

    def preview(params: Params) -> np.ndarray:
        pipe.replace(**networks(params))
        images = pipe(prompts, seeds, **how, **given)
        pipe.replace(**empty)
        return tile(images, len(config.prompts))

    return preview
