"""How a picture was drawn, as data and in the form that AUTOMATIC1111's web UI made common."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

# The names under which users of the web UIs know the samplers.
_A1111_SAMPLERS = {
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "dpm_2": "DPM2",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_sde": "DPM++ SDE",
    "euler": "Euler",
    "euler_a": "Euler a",
    "heun": "Heun",
    "lcm": "LCM",
    "lms": "LMS",
    "unipc": "UniPC",
}
_A1111_SUFFIXES = {"karras": " Karras", "exponential": " Exponential"}

_ALWAYS = (0.0, 1.0)

File = dict[str, str]
"""A file that went in: its name and sha256; empty where there was none."""

Use = dict[str, str | float]
"""A further model that took part, and how."""


@dataclass(frozen=True)
class Recipe:
    """All that is needed to draw a picture again, with the files that it names.

    What is at its default was not used, and is not written.
    """

    prompt: str
    """What was asked for."""
    negative_prompt: str
    """What was asked to be absent; may be empty."""
    seed: int
    """Seed of this picture."""
    sampler: str
    """Sampler, by its name here."""
    schedule: str
    """Grid of noise levels, by its name here."""
    num_steps: int
    """Sampling steps."""
    guidance_scale: float
    """Scale of classifier-free guidance; 1 is off."""
    guidance_rescale: float
    """Guidance rescale (Lin et al. 2023); 0 is off."""
    model: str
    """Name of the model."""
    model_hash: str
    """First ten digits of the SHA-256 of its weight files."""
    width: int
    """Width in pixels."""
    height: int
    """Height in pixels."""
    dtype: str
    """What the networks computed in."""
    guidance_interval: tuple[float, float] = _ALWAYS
    """Lowest and highest time t at which guidance was on."""
    licence: str = ""
    """Licence of the model, where it says one."""
    prediction: str = ""
    """What the network was said to predict, where that is not what its files say."""
    clip_skip: int = 0
    """Layers of the text encoders left out."""
    max_chunks: int = 1
    """Lengths of the text encoder that the prompts filled, or were cut to."""
    strength: float | None = None
    """Share of the steps that a user's picture was redrawn by; None where none went in."""
    init_image: File = field(default_factory=dict)
    """The user's picture that the drawing started from."""
    mask: File = field(default_factory=dict)
    """Where to draw in it."""
    outpaint: tuple[int, ...] = ()
    """Pixels drawn around it: left, top, right, bottom."""
    noise_level: int | None = None
    """Of the picture given, for an upscaler."""
    hires_scale: float = 1.0
    """How much larger the second pass was; 1 is none."""
    hires_strength: float | None = None
    """Share of the steps that the second pass took."""
    hires_from: tuple[int, ...] = ()
    """Width and height of the first pass."""
    tile: int = 0
    """Side of the autoencoder's tiles in pixels; 0 is the whole picture."""
    controlnets: tuple[Use, ...] = ()
    """Name, hash, image, image_sha256, weight, start and end of each."""
    loras: tuple[Use, ...] = ()
    """Name, sha256, hash (of the web UIs) and weight of each."""
    embeddings: tuple[File, ...] = ()
    """Textual inversions."""
    refiner: Use = field(default_factory=dict)
    """Name and hash of the model that took over, and the share of the way at which it did."""
    steps_shown: bool = False
    """Whether this is not the picture, but the strip of predictions on the way to it."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of the libraries that drew it."""


def used(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON values, without what it made no use of."""
    unset, content = dataclasses.MISSING, dataclasses.asdict(recipe)
    for part in dataclasses.fields(Recipe):
        made = part.default_factory
        default = part.default if made is unset else made()
        if default is not unset and content[part.name] == default:
            del content[part.name]
    return content


def given_pictures(recipe: Recipe) -> list[str]:
    """The names of the users' pictures that went in."""
    files = [recipe.init_image, recipe.mask]
    names = [file["name"] for file in files if file]
    return names + [str(net["image"]) for net in recipe.controlnets]


def a1111_text(recipe: Recipe) -> str:
    """The recipe in the web UIs' form: prompt, negative prompt, then `Steps: 30, Sampler: ...`."""
    sampler = _A1111_SAMPLERS.get(recipe.sampler, recipe.sampler)
    suffix = _A1111_SUFFIXES.get(recipe.schedule, "")
    settings = {
        "Steps": recipe.num_steps,
        "Sampler": sampler + suffix,
        **({} if suffix else {"Schedule type": recipe.schedule}),
        "CFG scale": f"{recipe.guidance_scale:g}",
        "Seed": recipe.seed,
        "Size": f"{recipe.width}x{recipe.height}",
        "Model hash": recipe.model_hash,
        "Model": recipe.model,
        **({"CFG Rescale": f"{recipe.guidance_rescale:g}"} if recipe.guidance_rescale else {}),
        **_a1111_extras(recipe),
        "Version": f"jaxdiff {recipe.versions.get('jaxdiff', '')}".strip(),
    }
    lines = [recipe.prompt]
    if recipe.negative_prompt:
        lines.append(f"Negative prompt: {recipe.negative_prompt}")
    lines.append(", ".join(f"{key}: {value}" for key, value in settings.items()))
    return "\n".join(lines)


def _a1111_extras(recipe: Recipe) -> dict[str, Any]:
    """What some tasks alone use, under the web UIs' names where they have one."""
    hires = recipe.hires_scale != 1
    strength = recipe.hires_strength if hires and recipe.strength is None else recipe.strength
    interval = recipe.guidance_interval
    extras = {
        "Guidance interval": None if interval == _ALWAYS else "-".join(f"{t:g}" for t in interval),
        "Denoising strength": None if strength is None else f"{strength:g}",
        "Clip skip": recipe.clip_skip + 1 if recipe.clip_skip else None,  # they count from 1
        "Hires upscale": f"{recipe.hires_scale:g}" if hires else None,
        "Hires upscaler": "Latent" if hires else None,
        "Init image": recipe.init_image.get("name"),
        "Mask": recipe.mask.get("name"),
        "Outpaint": " ".join(map(str, recipe.outpaint)),
        "Noise level": recipe.noise_level,
        "Tiled VAE": recipe.tile,
        "Refiner": recipe.refiner.get("name"),
        "Refiner switch at": recipe.refiner.get("start"),
        "Prediction": recipe.prediction,
    }
    for i, net in enumerate(recipe.controlnets):
        extras[f"ControlNet {i}"] = (
            f'"Model: {net["name"]} [{net["hash"]}], Image: {net["image"]}, '
            f"Weight: {net['weight']:g}, Guidance Start: {net['start']:g}, "
            f'Guidance End: {net["end"]:g}"'
        )
    for key, files in (("Lora hashes", recipe.loras), ("TI hashes", recipe.embeddings)):
        listed = ", ".join(f"{f['name']}: {f.get('hash') or f['sha256'][:10]}" for f in files)
        extras[key] = f'"{listed}"' if listed else None
    weights = ", ".join(f"{lora['name']}: {lora['weight']:g}" for lora in recipe.loras)
    extras["Lora weights"] = f'"{weights}"' if weights else None
    return {key: value for key, value in extras.items() if value not in (None, "", 0)}
