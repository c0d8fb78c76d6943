"""What fine-tuning is made of: which model, what of it is trained, on what else."""

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from jaxdiff.convert.scheduler import NoiseConfig
from jaxdiff.errors import UserError
from jaxdiff.models import Remat, UNetConfig
from jaxdiff.training.options import LossConfig, require


@dataclass(frozen=True)
class FullMethod:
    """Train all parameters of the UNet; exports a model directory."""

    text_encoder: bool = False
    """Train the text encoders too."""


@dataclass(frozen=True)
class LoraMethod:
    """Train low-rank changes (Hu et al. 2021); exports one .safetensors file."""

    rank: int = 8
    """Rank of the changes."""
    alpha: float | None = None
    """The changes are scaled by alpha / rank; None for the rank, which is no scaling."""
    targets: Literal["attention", "transformer", "all"] = "attention"
    """Layers that are changed: the attentions' projections, all of the transformers, or these and
    the convolutions of the residual blocks."""
    text_encoder: bool = False
    """Change the text encoders too: their attention, or all of it with the other targets."""
    layout: Literal["diffusers", "kohya"] = "diffusers"
    """Names in the exported file: those of diffusers, or of kohya's scripts, ComfyUI and A1111."""

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        require(self.rank >= 1, "objective.method.rank", self, "at least 1")
        alpha = self.alpha is None or self.alpha > 0
        require(alpha, "objective.method.alpha", self, "above 0")


@dataclass(frozen=True)
class TextualInversionMethod:
    """Train the embedding of a new word (Gal et al. 2023); exports one .safetensors file."""

    token: str = "<subject>"
    """The new word, which captions have in the place of the subject's name."""
    vectors: int = 1
    """Rows of the table that the word gets."""
    initial: str = ""
    """A word whose embedding the rows start from; empty: the mean of the table's rows."""

    def __post_init__(self) -> None:
        """Refuse what makes no token."""
        require(self.vectors >= 1, "objective.method.vectors", self, "at least 1")
        if not self.token or any(letter.isspace() for letter in self.token):
            raise UserError(f"objective.method.token must be one word, not {self.token!r}")


@dataclass(frozen=True)
class ControlNetMethod:
    """Train a ControlNet (Zhang et al. 2023) on a folder with conditioning pictures."""

    init: Path | None = None
    """Directory of a ControlNet to start from; None: the UNet's own first half."""


@dataclass(frozen=True)
class ScratchMethod:
    """Train a fresh UNet between the model's frozen other parts; exports a model directory."""

    unet: UNetConfig = field(default_factory=UNetConfig)
    """Its shape, for latents and text states as wide as the model's."""
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    """Forward process and prediction, in the place of the model's."""

    def __post_init__(self) -> None:
        """Refuse options that are set elsewhere."""
        for name, unset in (("remat", "none"), ("attention", "auto")):
            if getattr(self.unet, name) != unset:
                raise UserError(f"set objective.{name}, not objective.method.unet.{name}")


Method = FullMethod | LoraMethod | TextualInversionMethod | ControlNetMethod | ScratchMethod


@dataclass(frozen=True)
class PriorConfig:
    """Prior preservation (Ruiz et al. 2023, DreamBooth): every second example is of the class."""

    folder: Path | None = None
    """Captioned pictures of the subject's class; None trains without."""
    weight: float = 1.0
    """Of their part of the loss, mean over them, against 1 for the subject's part."""
    prompt: str = ""
    """Before training, draw what the folder lacks of `count` pictures from this prompt with the
    model itself; empty: take the folder as it is."""
    count: int = 100
    """Pictures that the folder shall hold where there is a prompt."""

    def __post_init__(self) -> None:
        """Refuse numbers out of range, and options that would be ignored."""
        require(self.weight >= 0, "objective.prior.weight", self, "at least 0")
        require(self.count >= 1, "objective.prior.count", self, "at least 1")
        if self.prompt and self.folder is None:
            raise UserError("objective.prior.prompt needs objective.prior.folder to draw into")


@dataclass(frozen=True)
class DistilConfig:
    """Consistency distillation to few steps: the model as it is teaches what is trained.

    The whole UNet or a LoRA learns to draw in few steps.
    """

    levels: int = 0
    """Steps of the teacher's grid, between neighbours of which the student must agree; 0: none,
    train by denoising."""
    guidance_scale: float = 4.0
    """Of the teacher; the student has it built in and draws at 1, unless it keeps guidance."""
    keeps_guidance: bool = False
    """Guide the student as its teacher is, in learning and in drawing: two calls a step, and it
    begins where the teacher is; guidance itself need not be learned."""
    segments: int = 1
    """Equal parts of the grid, to whose ends the student goes at once: it draws in as many steps of
    the sampler ddim (Heek et al. 2024). With 1 it goes to the data, and draws in one to four steps
    of lcm (Luo et al. 2023)."""

    def __post_init__(self) -> None:
        """Refuse numbers out of range, and a scale that would be ignored."""
        fine = self.levels == 0 or self.levels >= 2
        require(fine, "objective.distil.levels", self, "0 or at least 2")
        divides = self.segments >= 1 and self.levels % self.segments == 0
        require(divides, "objective.distil.segments", self, "at least 1, a divisor of the levels")
        scale = self.guidance_scale
        require(math.isfinite(scale), "objective.distil.guidance_scale", self, "a finite number")
        if self.keeps_guidance and scale == 1:
            raise UserError(
                "objective.distil.keeps_guidance costs a second call and does nothing at "
                "objective.distil.guidance_scale=1; leave it out"
            )
        alone = "segments", "guidance_scale", "keeps_guidance"
        for name in () if self.levels else alone:
            if getattr(self, name) != getattr(type(self), name):
                raise UserError(
                    f"objective.distil.{name} does nothing without a teacher: set "
                    "objective.distil.levels, or leave it out"
                )


@dataclass(frozen=True)
class FinetuneObjective:
    """Go on training a model, or a small part beside it."""

    model: Path = Path("models/emoji64")
    """Model directory, .safetensors file or hub name."""
    tokenizer_dir: Path | None = None
    """A folder of tokenizer files, for a single file that has none."""
    method: Method = field(default_factory=FullMethod)
    """What is trained; the preset chooses it."""
    prior: PriorConfig = field(default_factory=PriorConfig)
    """Pictures of the subject's class, so that it is not forgotten."""
    distil: DistilConfig = field(default_factory=DistilConfig)
    """Distillation, in the place of the loss of denoising."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Noise levels and weights."""
    prediction: Literal["eps", "x0", "v"] | None = None
    """Train the network to predict this from now on; None: what the model predicts."""
    zero_terminal_snr: bool | None = None
    """Train with pure noise as the last level (Lin et al. 2023), or not; None: as the model."""
    clip_skip: int = 0
    """Layers of the text encoders left out at their end, beyond what the family leaves out."""
    remat: Remat = "none"
    """What the backward pass computes again instead of finding it stored: nothing, all but the
    results of products and convolutions, or whole blocks; less memory, more time."""
    attention: str = "auto"
    """Attention kernel: auto, einsum, blocked, cudnn or splash."""

    def __post_init__(self) -> None:
        """Refuse options that contradict each other."""
        require(self.clip_skip >= 0, "objective.clip_skip", self, "at least 0")
        asked = {"prediction": self.prediction, "zero_terminal_snr": self.zero_terminal_snr}
        for name, value in asked.items():
            if value is not None and isinstance(self.method, ScratchMethod):
                raise UserError(f"set objective.method.noise.{name}, not objective.{name}")
            if value is not None and self.distil.levels:
                raise UserError(f"objective.{name} is the teacher's in distillation; leave it out")
        dreambooth = isinstance(self.method, FullMethod | LoraMethod)
        if self.prior.folder is not None and not dreambooth:
            raise UserError(
                "objective.prior is for the presets finetune, lora and dreambooth; "
                f"{type(self.method).__name__} cannot forget the class"
            )
        self._check_distil()

    def _check_distil(self) -> None:
        """Refuse a student that is not the teacher's own UNet, changed, and a loss it has not."""
        if not self.distil.levels:
            return
        whole = isinstance(self.method, FullMethod | LoraMethod)
        if not whole or self.method.text_encoder or self.prior.folder is not None:
            raise UserError(
                "objective.distil trains the whole UNet or a LoRA of it, without text encoders and "
                "prior; leave the others out"
            )
        plain = LossConfig()
        for name in (part.name for part in fields(plain)):
            if getattr(self.loss, name) != getattr(plain, name):
                raise UserError(
                    f"objective.loss.{name} is of the loss of denoising, which "
                    "objective.distil replaces; leave one of them out"
                )
