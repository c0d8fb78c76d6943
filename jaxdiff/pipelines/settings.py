"""How a picture is drawn, apart from its prompt, its seed and the pictures that go in."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from jaxdiff.convert import Model
from jaxdiff.diffusion.grids import GRIDS
from jaxdiff.diffusion.samplers import SAMPLERS
from jaxdiff.errors import UserError, choose, typed_fields
from jaxdiff.pipelines.sizes import Wish

REDRAW, REPAINT = 0.8, 1.0
"""Strength unless told otherwise: of image to image, and within a mask."""


@dataclass(frozen=True)
class Settings:
    """Sampler, steps, guidance, sizes, and what some tasks alone read."""

    num_steps: int = 25
    """Sampling steps; another number compiles again."""
    sampler: str = "dpmpp_2m"
    """A name of `SAMPLERS`; another one compiles again."""
    schedule: str = "trailing"
    """A name of `GRIDS`."""
    guidance_scale: float = 3.0
    """Scale of classifier-free guidance; 1 is off, and still pays for the doubled batch, so that
    another scale compiles nothing."""
    guidance_rescale: float = 0.0
    """Share of the guided prediction that gets the unguided one's contrast (Lin et al. 2023)."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest time t, 0 clean to 1 noise, at which guidance is on (Kynkäänniemi et al.
    2024)."""
    negative_prompt: str = ""
    """What to draw away from."""
    width: int | None = None
    """In pixels; None is that of the picture given, else what the model was trained on."""
    height: int | None = None
    """In pixels; another size compiles again."""
    clip_skip: int = 0
    """Layers of the text encoder to leave out at its end; another number compiles again."""
    max_chunks: int = 4
    """How often a prompt may fill the text encoder's length; what is beyond is cut. 1 for encoders
    of fewer than CLIP's 77 tokens."""
    strength: float | None = None
    """Share of the steps that a picture given is redrawn by; None is 0.8, or 1 with a mask."""
    outpaint: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Pixels to draw around the picture given: left, top, right, bottom."""
    noise_level: int = 20
    """Upscalers alone: level of the noise on the picture given, that new detail replaces."""
    control_weights: tuple[float, ...] = ()
    """Factor on each ControlNet; 1 each if none is given."""
    control_ranges: tuple[tuple[float, float], ...] = ()
    """First and last of each ControlNet's steps, as shares of all; 0 and 1 if none are given."""
    hires_scale: float = 1.0
    """Enlarge the drawn latents by this factor and draw again; 1 is off."""
    hires_strength: float = 0.7
    """Share of the steps that the enlarged picture is redrawn by."""
    tile: int = 0
    """Side in pixels of the tiles by which the autoencoder works; 0 is the whole picture."""

    def __post_init__(self) -> None:
        """Refuse unknown names and numbers out of range."""
        choose("sampler", self.sampler, SAMPLERS)
        choose("schedule", self.schedule, GRIDS)
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise UserError(f"{_WORDS.get(name, name)} is {value}; give at least {least}")
        if not math.isfinite(self.guidance_scale):
            raise UserError(f"guidance scale is {self.guidance_scale}; give a finite number")
        for name in ("guidance_rescale", "strength", "hires_strength"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"{name.replace('_', ' ')} is {value}; give 0 to 1")
        times = self.guidance_interval
        if len(times) != 2 or not 0 <= times[0] < times[1] <= 1:
            raise UserError(
                f"guidance interval is {','.join(f'{time:g}' for time in times)}; give two times "
                "of 0 to 1 in order, as 0.2,0.8"
            )
        if not self.hires_scale <= _LARGEST_SCALE:
            raise UserError(f"hires scale is {self.hires_scale}; give 1 to {_LARGEST_SCALE}")
        if min(self.outpaint) < 0:
            raise UserError(f"outpaint is {self.outpaint}; give four borders of at least 0 pixels")
        for weight in self.control_weights:
            if not math.isfinite(weight):
                raise UserError(f"a ControlNet's weight is {weight}; give a finite number")
        for start, end in self.control_ranges:
            if not 0 <= start <= end <= 1:
                raise UserError(
                    f"a ControlNet's steps run from {start} to {end}; give shares of all steps in "
                    "order, as 0-0.5"
                )

    def strength_of(self, masked: bool) -> float:
        """The strength, or the one that goes without saying with or without a mask."""
        return (REPAINT if masked else REDRAW) if self.strength is None else self.strength


_AT_LEAST = {
    "num_steps": 1,
    "width": 1,
    "height": 1,
    "clip_skip": 0,
    "max_chunks": 1,
    "noise_level": 0,
    "hires_scale": 1,
    "tile": 0,
}
_WORDS = {"num_steps": "steps", "clip_skip": "clip skip", "hires_scale": "hires scale"}
_LARGEST_SCALE = 8
_CLIP_LENGTH = 77


def with_changes(settings: Settings, changes: dict[str, Any]) -> Settings:
    """The settings with some fields changed; None leaves a field as it is."""
    return dataclasses.replace(settings, **{k: v for k, v in changes.items() if v is not None})


def wish_of(settings: Settings) -> Wish:
    """What the settings say of sizes."""
    return Wish(**{name: getattr(settings, name) for name in Wish._fields})


def default_settings(model: Model) -> Settings:
    """The library's defaults, the model's noise schedule, and what the model's card recommends.

    Where the card says nothing, the model gets what is usual for its family.

    Raises:
      UserError: the card recommends an unknown setting, or a value of another type or out of range.
    """
    plain = with_changes(Settings(schedule=model.noise.spacing), _usual(model))
    return recommended(plain, model.meta.get("sampling", {}), "jaxdiff.json")


def recommended(settings: Settings, changes: dict[str, Any], source: str) -> Settings:
    """The settings with what a file recommends.

    Raises:
      UserError: it is an unknown setting, or a value of another type or out of range.
    """
    for name in changes:
        choose(f"setting in {source}", name, [f.name for f in dataclasses.fields(Settings)])
    return with_changes(settings, typed_fields(Settings, changes, f"sampling in {source}"))


def _usual(model: Model) -> dict[str, Any]:
    """Guidance as `diffusers` has it by default for this family; LCM's few steps.

    Joining chunks is a habit of CLIP's users; encoders of shorter texts are a model's own, which
    never saw more than one chunk, and so are BERTs.
    """
    short = model.reads_bert or any(
        tower.config.max_position_embeddings < _CLIP_LENGTH for tower in model.text
    )
    usual = {"max_chunks": 1} if short else {}
    if model.unet_config.time_cond_proj_dim is not None:
        return {**usual, "guidance_scale": 8.5, "sampler": "lcm", "num_steps": 4}
    return {**usual, "guidance_scale": 5.0 if model.family.startswith("sdxl") else 7.5}
