"""What a run is made of, as frozen dataclasses: the command line and `config.json` alike."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jaxdiff.convert.scheduler import NoiseConfig
from jaxdiff.data.config import DataConfig
from jaxdiff.errors import UserError
from jaxdiff.models import AutoencoderConfig, TextEncoderConfig, UNetConfig, VisionEncoderConfig
from jaxdiff.training.finetune_config import (
    ControlNetMethod,
    DistilConfig,
    FinetuneObjective,
    FullMethod,
    LoraMethod,
    PriorConfig,
    ScratchMethod,
    TextualInversionMethod,
)
from jaxdiff.training.options import (
    EMAConfig,
    LossConfig,
    MeshConfig,
    OptimizerConfig,
    PreviewConfig,
    require,
)

__all__ = [
    "AutoencoderObjective",
    "ContrastiveObjective",
    "ControlNetMethod",
    "DiffusionObjective",
    "DistilConfig",
    "EMAConfig",
    "FinetuneObjective",
    "FullMethod",
    "LoraMethod",
    "LossConfig",
    "MeshConfig",
    "OptimizerConfig",
    "PreviewConfig",
    "PriorConfig",
    "ScratchMethod",
    "SentenceObjective",
    "TextualInversionMethod",
    "TrainConfig",
]


@dataclass(frozen=True)
class AutoencoderObjective:
    """Train a KL autoencoder: L1 + L2 + gradient loss, and a small KL term."""

    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    """Its shape."""
    l1_weight: float = 1.0
    """Of the mean absolute error."""
    l2_weight: float = 1.0
    """Of the mean squared error."""
    gradient_weight: float = 1.0
    """Of the mean absolute error of neighbouring pixels' differences, which keeps edges."""
    kl_weight: float = 1e-6
    """Of the KL divergence to N(0, I), in nats per latent element times their number."""


@dataclass(frozen=True)
class DiffusionObjective:
    """Train a text encoder and a UNet on the latents of a frozen autoencoder."""

    unet: UNetConfig = field(default_factory=UNetConfig)
    """Shape of the UNet."""
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    """Shape of the text encoder; its table has as many rows as the tokenizer has tokens."""
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    """Forward process and prediction."""
    autoencoder: Path = Path("models/emoji64")
    """Model directory whose `vae/` makes the latents."""
    init: Path | None = None
    """Model directory whose networks and tokenizer training starts from; None starts anew."""
    text: Path | None = None
    """Directory whose `text_encoder/` and `tokenizer/` are used, such as the preset emoji-text
    makes, or the folder of a sentence encoder, beside which `text_encoder` says nothing; it stays
    as it is unless `text_learns`. None trains both from nothing."""
    text_learns: bool = False
    """Begin with the text encoder of `text`, and train it with the UNet."""
    tokenizer: Path | None = None
    """Model directory whose `tokenizer/` is used; None takes that of `init`, or trains one on the
    captions."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Noise levels and weights."""

    def __post_init__(self) -> None:
        """Refuse a text encoder that is to learn and is none."""
        if self.text_learns and self.text is None:
            raise UserError(
                "objective.text_learns says how objective.text is used: give objective.text, or "
                "leave it out (without it a new text encoder learns in any case)"
            )


@dataclass(frozen=True)
class ContrastiveObjective:
    """Train a CLIP: two towers that embed pictures and captions alike."""

    text: TextEncoderConfig
    """Shape of the text tower, with its projection."""
    vision: VisionEncoderConfig
    """Shape of the picture tower, which projects to the same width."""
    tokenizer: Path | None = None
    """Model directory whose `tokenizer/` is used; None trains one on the captions."""
    smallest_crop: float = 1.0
    """Pictures are seen through a random square, whose side is between this share of theirs and 1;
    1 crops nothing."""

    def __post_init__(self) -> None:
        """Refuse towers that do not meet, and crops that are none."""
        within = 0 < self.smallest_crop <= 1
        require(within, "objective.smallest_crop", self, "above 0 and at most 1")
        if self.text.projection_dim != self.vision.projection_dim:
            raise UserError(
                f"objective.text.projection_dim={self.text.projection_dim} and "
                f"objective.vision.projection_dim={self.vision.projection_dim} must be equal"
            )


@dataclass(frozen=True)
class SentenceObjective:
    """Train a small text encoder to say what a sentence encoder says."""

    text: TextEncoderConfig
    """Shape of the text encoder; its projection is as wide as the teacher's embeddings."""
    teacher: Path | None = None
    """Folder of the sentence encoder, as `sentence-transformers` stores it; must be given."""
    tokenizer: Path | None = None
    """Model directory whose `tokenizer/` is used; None trains one on the captions."""


AnyObjective = (
    AutoencoderObjective
    | DiffusionObjective
    | FinetuneObjective
    | ContrastiveObjective
    | SentenceObjective
)
"""What may be trained."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run. The same command again resumes it."""

    objective: AnyObjective
    """What is trained."""
    data: DataConfig
    """What it is trained on."""
    workdir: Path | None = None
    """Where checkpoints, metrics, pictures and config.json go; must be given."""
    export: Path | None = None
    """Write what was trained, averaged, here when training ends: a model directory; a .safetensors
    file for a LoRA or an embedding; the directory of a ControlNet."""
    checkpoints: str = ""
    """Where checkpoints go if not into the work directory: another disk, or gs://BUCKET/PATH."""
    name: str = ""
    """What the exported model calls itself in the pictures that it draws."""
    licence: str = ""
    """Licence that the exported model says its pictures are under."""
    num_steps: int = 100_000
    """Steps in all, those of earlier runs in the same workdir included."""
    seed: int = 0
    """Seed of parameters, noise and dropout; the data has its own."""
    parallel: Literal["mesh", "pmap"] = "mesh"
    """How a step is spread over devices: jit over a mesh, or pmap. Both compute the same."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """The mesh of devices."""
    steps_per_dispatch: int = 1
    """Steps that the devices take between two words with the host, for steps so short that the
    host would hold them up."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What networks compute in; trained parameters, norms, losses and schedules stay float32."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimizer."""
    ema: EMAConfig = field(default_factory=EMAConfig)
    """The moving average."""
    preview: PreviewConfig = field(default_factory=PreviewConfig)
    """Pictures drawn while training."""
    log_every: int = 50
    """Steps between lines of metrics."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; the last step always writes one."""
    keep: int = 3
    """Checkpoints kept."""

    def __post_init__(self) -> None:
        """Refuse options that contradict each other, before anything is compiled."""
        for name in ("num_steps", "log_every", "checkpoint_every", "keep", "steps_per_dispatch"):
            require(getattr(self, name) >= 1, name, self, "at least 1")
        accumulate, batch = self.optimizer.accumulate, self.data.batch_size
        if batch % accumulate:
            raise UserError(
                f"optimizer.accumulate={accumulate} must divide data.batch_size={batch}"
            )
        self._check_dispatch()
        check_data(self.objective, self.data)
        if self.optimizer.text_encoder_rate != 1 and not trains_text(self.objective):
            raise UserError(
                f"optimizer.text_encoder_rate={self.optimizer.text_encoder_rate} is for text "
                "encoders that are trained beside a UNet, and here none is: leave it out"
            )

    def _check_dispatch(self) -> None:
        """Refuse to look at steps that lie within a dispatch."""
        steps = self.steps_per_dispatch
        for name in ("log_every", "checkpoint_every", "preview.every"):
            owner, _, leaf = name.rpartition(".")
            every = getattr(getattr(self, owner) if owner else self, leaf)
            if every % steps:
                raise UserError(f"steps_per_dispatch={steps} must divide {name}={every}")
        if steps > 1 and self.data.bucket_step:
            raise UserError(
                "steps_per_dispatch stacks batches, which data.bucket_step makes of different "
                "sizes; leave one of them out"
            )


def trains_text(objective: AnyObjective) -> bool:
    """Whether text encoders are trained beside a UNet."""
    if isinstance(objective, DiffusionObjective):
        return objective.text is None or objective.text_learns
    return isinstance(objective, FinetuneObjective) and bool(
        getattr(objective.method, "text_encoder", False)
    )


def check_data(objective: AnyObjective, data: DataConfig) -> None:
    """Refuse ways of serving the data that do not go with what is trained.

    Raises:
      UserError: names both options.
    """
    reads_texts = isinstance(objective, SentenceObjective)
    if data.source.startswith("text:") and not reads_texts:
        raise UserError(f"data.source={data.source} holds no pictures, only captions")
    of_pixels = {AutoencoderObjective: "their autoencoder", ContrastiveObjective: "pictures"}
    if type(objective) in of_pixels and (data.bucket_step or data.cache):
        name = "bucket_step" if data.bucket_step else "cache"
        said = of_pixels[type(objective)]
        raise UserError(f"data.{name} is for training on latents, not for {said}")
    steered = isinstance(objective, FinetuneObjective) and isinstance(
        objective.method, ControlNetMethod
    )
    if steered != data.conditioning:
        raise UserError(
            "a ControlNet needs data.conditioning, which nothing else reads; "
            f"it is {data.conditioning} here"
        )
    if isinstance(objective, FinetuneObjective) and objective.prior.folder is not None:
        if data.bucket_step:
            raise UserError("objective.prior wants pictures of one size: set data.bucket_step to 0")
        if data.batch_size % 2:
            raise UserError(
                f"data.batch_size={data.batch_size} must be even: with objective.prior every "
                "second example is of the class"
            )
