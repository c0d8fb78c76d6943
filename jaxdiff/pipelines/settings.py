"""How a picture is drawn, apart from its prompt and seed."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from jaxdiff.diffusion.grids import GRIDS
from jaxdiff.diffusion.samplers import SAMPLERS
from jaxdiff.errors import UserError, choose


@dataclass(frozen=True)
class Settings:
    """Sampler, steps and guidance."""

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
    negative_prompt: str = ""
    """What to draw away from."""

    def __post_init__(self) -> None:
        """Refuse unknown names and numbers out of range."""
        choose("sampler", self.sampler, SAMPLERS)
        choose("schedule", self.schedule, GRIDS)
        if self.num_steps < 1:
            raise UserError(f"steps is {self.num_steps}; give at least 1")
        if not math.isfinite(self.guidance_scale):
            raise UserError(f"guidance scale is {self.guidance_scale}; give a finite number")
        if not 0 <= self.guidance_rescale <= 1:
            raise UserError(f"guidance rescale is {self.guidance_rescale}; give 0 to 1")


def with_changes(settings: Settings, changes: dict[str, Any]) -> Settings:
    """The settings with some fields changed; None leaves a field as it is."""
    return dataclasses.replace(settings, **{k: v for k, v in changes.items() if v is not None})
