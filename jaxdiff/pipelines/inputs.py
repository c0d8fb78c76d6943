"""What the compiled function is given, and what is compiled into it.

Axis legend: B pictures, K chunks of T tokens, H W pixels, h w Z latents, S steps shown.
"""

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int, UInt8

from jaxdiff.diffusion.grids import Grid
from jaxdiff.pipelines.network import Dial
from jaxdiff.pipelines.prompts import Tokens


class Rows(NamedTuple):
    """One row per picture; other values compile nothing."""

    tokens: tuple[Tokens, ...]
    """The prompts, one entry per text encoder, [B K T]."""
    negative: tuple[Tokens, ...]
    """The negative prompts."""
    seeds: Int[Array, " B"]
    """Seeds in [0, 2^32)."""
    latents: Float[Array, "B h w Z"] | None = None
    """Noise to start from instead of the seeds' own."""
    sample: Float[Array, "B h w Z"] | None = None
    """What another model drew down to the first level, to go on from."""
    init: UInt8[Array, "B H W 3"] | None = None
    """Pictures to start from."""
    mask: UInt8[Array, "B H W"] | None = None
    """White where to draw."""
    control: tuple[UInt8[Array, "B H W 3"], ...] = ()
    """For each ControlNet."""
    small: UInt8[Array, "B h w 3"] | None = None
    """Pictures to enlarge, for an upscaler."""


class SmallNoise(NamedTuple):
    """The noise that an upscaler's small picture gets, for new detail to take its place."""

    level: Int[Array, ""]
    """What the network is told of it."""
    alpha: Float[Array, ""]
    """Factor of the picture."""
    sigma: Float[Array, ""]
    """Factor of the noise."""


class Pass(NamedTuple):
    """One run over noise levels; other values compile nothing."""

    grid: Grid
    """The levels that are visited first to last."""
    count: Int[Array, ""] | None
    """How many of the steps to take; None is all."""
    fresh: Bool[Array, ""]
    """Whether what is drawn starts from noise alone, with nothing of a picture given."""
    dials: tuple[Dial, ...]
    """For each ControlNet."""


class Shared(NamedTuple):
    """The same for every picture; other values compile nothing."""

    guidance_scale: Float[Array, ""]
    """1 is off."""
    guidance_rescale: Float[Array, ""]
    """0 is off."""
    guidance_interval: tuple[Float[Array, ""], Float[Array, ""]]
    """Lowest and highest t of guidance; 0 and 1 are all."""
    silent: Bool[Array, ""]
    """Whether the other half of guidance has zeros for a text (SDXL's empty negative prompt)."""
    first: Pass
    """From noise, or from a picture given."""
    second: Pass | None = None
    """From the enlarged result of the first."""
    small_noise: SmallNoise | None = None
    """For upscalers."""
    shown: Int[Array, " S"] | None = None
    """Steps of the first pass whose predictions are returned too."""


@dataclass(frozen=True)
class How:
    """What is compiled in, apart from shapes."""

    sampler: str
    """A name of `SAMPLERS`."""
    size: tuple[int, int]
    """Height and width of the first pass in pixels."""
    hires_size: tuple[int, int] | None = None
    """And of the second."""
    clip_skip: int = 0
    """Layers of the text encoders left out."""
    tile: int = 0
    """Side in pixels of the autoencoder's tiles; 0 is none."""
    as_latents: bool = False
    """Whether the result is what another model goes on from, and not decoded."""
