"""What a pipeline can be given besides its model: ControlNets, LoRAs, embeddings, a refiner.

Each keeps its name and hash, for recipes.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jax.typing import DTypeLike

from jaxdiff.convert import Model, TextTower, load_controlnet, model_hash
from jaxdiff.convert.controlnet import check_controlnet
from jaxdiff.convert.embeddings import add_embeddings, load_embedding
from jaxdiff.convert.lora import Lora, draws, load_lora, lora_hash
from jaxdiff.errors import UserError
from jaxdiff.models import ControlNetConfig
from jaxdiff.models.lora import merge_all
from jaxdiff.pipelines.engine import Engine, Job
from jaxdiff.pipelines.hooks import Drawn
from jaxdiff.pipelines.pictures import file_record
from jaxdiff.pipelines.settings import Settings, recommended
from jaxdiff.provenance import File, Use


@dataclass(frozen=True)
class Attached:
    """A ControlNet in use."""

    config: ControlNetConfig
    name: str
    digest: str


@dataclass(frozen=True)
class Weighted:
    """A LoRA in use."""

    lora: Lora
    weight: float
    record: Use
    """For recipes."""


@dataclass(frozen=True)
class Extras:
    """All that is in use."""

    controlnets: tuple[Attached, ...] = ()
    loras: tuple[Weighted, ...] = ()
    merge: bool = True
    """Whether the UNet's LoRAs are merged into its parameters, or applied on the fly."""
    embeddings: tuple[File, ...] = ()
    """Files of textual inversions."""
    refiner: Any = None
    """The pipeline that draws the last steps."""
    refiner_start: float = 1.0
    """The share of the way at which it takes over."""


def check_images(extras: Extras, images: int) -> None:
    """Refuse more or fewer control images than there are ControlNets.

    Raises:
      UserError: as said.
    """
    nets = len(extras.controlnets)
    if nets != images:
        raise UserError(f"{images} control images for {nets} ControlNets; give one for each")


def check_job(engine: Engine, job: Job, extras: Extras) -> None:
    """Refuse what cannot be drawn, before anything is compiled or written.

    Args:
      engine: the model's.
      job: what is to be drawn.
      extras: all that takes part.

    Raises:
      UserError: a setting is beyond the model or its refiner, control images lack, or steps are to
        be shown, or there is a second pass, with a refiner.
    """
    check_images(extras, len(job.layout.control))
    engine.check(job)
    if extras.refiner is None:
        return
    if job.show or job.layout.sizes.second is not None:
        raise UserError("with a refiner there are neither steps shown nor a hires pass")
    extras.refiner.engine.check(_rest(job, extras.refiner_start))


def draw_in_turn(engine: Engine, params: dict[str, Any], job: Job, extras: Extras) -> Drawn:
    """Draw, and let the refiner go on where there is one.

    Args:
      engine: the model's.
      params: the model's.
      job: what to draw, as `check_job` allows it.
      extras: the refiner, if any.
    """
    if extras.refiner is None:
        pixels, steps = engine.run(params, job)
        return Drawn(pixels, steps, (False,) * len(pixels))
    start, refiner = extras.refiner_start, extras.refiner
    sample, _ = engine.run(params, job._replace(span=(0.0, start)))
    pixels, _ = refiner.engine.run(refiner.params, _rest(job, start)._replace(sample=sample))
    return Drawn(pixels, None, (False,) * len(pixels))


def _rest(job: Job, start: float) -> Job:
    """What is left to a refiner, which no ControlNet steers."""
    settings = dataclasses.replace(job.settings, control_weights=(), control_ranges=())
    layout = job.layout._replace(control=())
    return job._replace(layout=layout, settings=settings, latents=None, span=(start, 1.0))


def check_refiner(base: Model, refiner: Model, start: float, name: str = "") -> None:
    """Refuse a refiner of another family, and a start that leaves one of the two nothing to do.

    Args:
      base: begins the picture.
      refiner: goes on with it.
      start: the share of the way at which it does.
      name: of the refiner, for messages.

    Raises:
      UserError: as said.
    """
    if not 0 < start < 1:
        raise UserError(f"the refiner starts at {start}; give a share of the way between 0 and 1")
    if refiner.family.endswith("-upscale"):
        raise UserError(f"refiner {name} enlarges pictures and cannot go on with one")
    kind = refiner.family.split("-")[0]
    base.require_family(kind, f"{kind}-inpaint", task=f"refiner {name}")
    ours, theirs = ((m.vae_config.latent_channels, m.vae_config.downscale) for m in (base, refiner))
    if ours != theirs:
        raise UserError(
            f"the refiner's latents have {theirs[0]} channels at 1/{theirs[1]} of the size, the "
            f"model's {ours[0]} at 1/{ours[1]}; give a refiner made for this model"
        )


def name_of(where: str | Path) -> str:
    """What recipes call a model that lies there.

    >>> name_of("models/stable-diffusion-xl-base-1.0"), name_of("anime.v2.safetensors")
    ('stable-diffusion-xl-base-1.0', 'anime.v2')
    """
    return Path(where).resolve().name.removesuffix(".safetensors")


def read_controlnet(
    given: str | Path | tuple[ControlNetConfig, Any],
    model: Model,
    dtype: DTypeLike,
    variant: str | None = None,
) -> tuple[Attached, Any]:
    """A ControlNet, from its directory where that is given, and its parameters.

    Raises:
      UserError: it cannot be read, or is for another kind of model.
    """
    name, digest = "", ""
    if not isinstance(given, tuple):
        name, digest = name_of(given), model_hash(given, variant)
        given = load_controlnet(given, dtype=dtype, variant=variant)
    config, params = given
    check_controlnet(config, model, name)
    return Attached(config, name, digest), params


def read_lora(lora: Lora | str | Path, weight: float, model: Model) -> Weighted:
    """A LoRA, from its file where that is given, with what a recipe says of it.

    Raises:
      UserError: it is no LoRA, or for another kind of model, or the weight is no number.
    """
    if not math.isfinite(weight):
        raise UserError(f"a LoRA's weight is {weight}; give a finite number")
    record: Use = {"name": "", "sha256": "", "hash": ""}
    if not isinstance(lora, Lora):
        path, lora = Path(lora), load_lora(lora, model)
        record = {**file_record(path), "hash": lora_hash(path)}
    return Weighted(lora, float(weight), {**record, "weight": float(weight)})


def defaults_with(defaults: Settings, loras: Sequence[Weighted]) -> Settings:
    """The defaults of a model with what its LoRAs recommend; the last one's word counts.

    Raises:
      UserError: what one says of itself cannot be read.
    """
    for used in loras:
        if used.weight:
            source = used.record["name"] or "the LoRA"
            defaults = recommended(defaults, draws(used.lora, source), source)
    return defaults


def read_embedding(
    path: str | Path, model: Model, params: dict[str, Any]
) -> tuple[str, File, tuple[TextTower, ...]]:
    """A textual inversion's word, what a recipe says of it, and the text encoders that know it.

    Raises:
      UserError: the file is no textual inversion, or one for another kind of model.
    """
    embedding = load_embedding(path)
    towers = tuple(tower._replace(params=params[tower.name]) for tower in model.text)
    return embedding.token, file_record(path), add_embeddings(towers, embedding)


def merged(base: dict[str, Any], extras: Extras) -> dict[str, Any]:
    """The parameters with the LoRAs in them, or the UNet's LoRAs beside them."""
    params = dict(base)
    for name in base:
        loras = [(used.lora.parts.get(name, {}), used.weight) for used in extras.loras]
        loras = [(layers, np.float32(weight)) for layers, weight in loras if layers]
        if loras and name == "unet" and not extras.merge:
            params["lora"] = loras
        elif loras:
            params[name] = merge_all(base[name], loras)
    return params
