"""What a picture shall carry of how it was drawn."""

from importlib import metadata
from typing import TYPE_CHECKING, Any

import jax

from jaxdiff.pipelines.extras import check_images
from jaxdiff.pipelines.pictures import Picture, Pictures
from jaxdiff.pipelines.rows import read_prompt
from jaxdiff.pipelines.settings import Settings, wish_of
from jaxdiff.pipelines.sizes import Sizes, choose_sizes
from jaxdiff.provenance import File, Recipe, Use

if TYPE_CHECKING:
    from jaxdiff.pipelines.text_to_image import TextToImage

PLAIN = (
    "negative_prompt",
    "sampler",
    "schedule",
    "num_steps",
    "guidance_scale",
    "guidance_rescale",
    "guidance_interval",
    "clip_skip",
    "tile",
)
"""Settings that every recipe has as they are."""


def make_recipe(
    pipe: "TextToImage",
    prompt: str,
    seed: int,
    settings: Settings,
    pictures: Pictures,
) -> Recipe:
    """The recipe of one picture.

    Args:
      pipe: what draws it.
      prompt: what was asked for.
      seed: of this picture.
      settings: how.
      pictures: what goes in, one of each kind.

    Raises:
      UserError: a size or a picture is not as it should be.
    """
    sizes = choose_sizes(pictures, wish_of(settings), pipe.room)
    check_images(pipe.extras, len(pictures.control))
    words = read_prompt(pipe.model, prompt, settings.negative_prompt, settings.max_chunks)
    return Recipe(
        prompt=prompt,
        seed=seed,
        **{name: getattr(settings, name) for name in PLAIN},
        model=pipe.name,
        model_hash=pipe.digest,
        width=sizes.output[1],
        height=sizes.output[0],
        dtype=pipe.dtype,
        licence=str(pipe.model.meta.get("licence", "")),
        prediction=pipe.prediction,
        max_chunks=words.chunks,
        **_of_pictures(settings, pictures, upscales=pipe.engine.networks.upscales),
        **_of_hires(settings, sizes),
        controlnets=_of_controlnets(pipe, settings, pictures),
        loras=tuple(lora.record for lora in pipe.extras.loras),
        embeddings=pipe.extras.embeddings,
        refiner=_of_refiner(pipe),
        versions=versions(),
    )


def versions() -> dict[str, str]:
    """What draws: libraries and device."""
    from jaxdiff import __version__

    libraries = {name: metadata.version(name) for name in ("jax", "jaxlib", "flax")}
    return {"jaxdiff": __version__, **libraries, "device": jax.devices()[0].device_kind}


def _file(pictures: tuple[Picture, ...]) -> File:
    return {"name": pictures[0].name, "sha256": pictures[0].sha256} if pictures else {}


def _of_pictures(settings: Settings, pictures: Pictures, *, upscales: bool) -> dict[str, Any]:
    """What is said of the picture to start from."""
    if not pictures.init:
        return {}
    files = {"init_image": _file(pictures.init), "mask": _file(pictures.mask)}
    if upscales:
        return {**files, "noise_level": settings.noise_level}
    grows = any(settings.outpaint)
    return {
        **files,
        "strength": settings.strength_of(bool(pictures.mask) or grows),
        "outpaint": settings.outpaint if grows else (),
    }


def _of_hires(settings: Settings, sizes: Sizes) -> dict[str, Any]:
    if sizes.second is None:
        return {}
    height, width = sizes.first
    names = ("hires_scale", "hires_strength")
    return {"hires_from": (width, height), **{name: getattr(settings, name) for name in names}}


def _of_controlnets(pipe: "TextToImage", settings: Settings, pictures: Pictures) -> tuple[Use, ...]:
    nets = pipe.extras.controlnets
    weights = settings.control_weights or (1.0,) * len(nets)
    ranges = settings.control_ranges or ((0.0, 1.0),) * len(nets)
    return tuple(
        {
            "name": net.name,
            "hash": net.digest,
            "image": picture[0].name,
            "image_sha256": picture[0].sha256,
            "weight": float(weight),
            "start": float(start),
            "end": float(end),
        }
        for net, picture, weight, (start, end) in zip(
            nets, pictures.control, weights, ranges, strict=True
        )
    )


def _of_refiner(pipe: "TextToImage") -> Use:
    refiner = pipe.extras.refiner
    if refiner is None:
        return {}
    return {
        "name": refiner.name,
        "hash": refiner.digest,
        "start": float(pipe.extras.refiner_start),
    }
