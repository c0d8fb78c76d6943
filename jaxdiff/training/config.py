"""What a run is made of, as frozen dataclasses: the command line and `config.json` alike."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jaxdiff.convert.scheduler import NoiseConfig
from jaxdiff.data.pipeline import DataConfig
from jaxdiff.errors import UserError
from jaxdiff.models import AutoencoderConfig, TextEncoderConfig, UNetConfig


def _require(holds: bool, name: str, config: Any, range_: str) -> None:
    """Raise a `UserError` that names the field and its range unless `holds`."""
    if not holds:
        value = getattr(config, name.rpartition(".")[2])
        raise UserError(f"{name} must be {range_}, not {value}")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW behind a gradient clip, with a learning rate that warms up and may decay."""

    learning_rate: float = 1e-4
    """Peak learning rate."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """After the warm-up: hold the peak, or decay it to `final_fraction` at the last step."""
    final_fraction: float = 0.0
    """What a decaying schedule ends at, as a share of the peak."""
    warmup_steps: int = 1000
    """Steps over which the learning rate rises linearly from 0."""
    b1: float = 0.9
    """Adam's decay of the mean of the gradient."""
    b2: float = 0.99
    """Adam's decay of the mean of its square."""
    eps: float = 1e-8
    """Adam's epsilon."""
    weight_decay: float = 0.0
    """Decoupled weight decay of matrices and kernels; norms, biases and embeddings have none."""
    clip_norm: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""
    accumulate: int = 1
    """Micro-batches that a step's batch is cut into, to save memory; the result is the same."""

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        _require(self.learning_rate >= 0, "optimizer.learning_rate", self, "at least 0")
        _require(self.warmup_steps >= 0, "optimizer.warmup_steps", self, "at least 0")
        _require(0 <= self.b1 < 1, "optimizer.b1", self, "in [0, 1)")
        _require(0 <= self.b2 < 1, "optimizer.b2", self, "in [0, 1)")
        _require(self.weight_decay >= 0, "optimizer.weight_decay", self, "at least 0")
        _require(self.clip_norm >= 0, "optimizer.clip_norm", self, "at least 0")
        _require(self.accumulate >= 1, "optimizer.accumulate", self, "at least 1")


@dataclass(frozen=True)
class EMAConfig:
    """The moving average of the parameters, which is what is sampled from and exported."""

    decay: float = 0.9999
    """Largest decay; 0 keeps no history (the average is the parameters)."""
    warmup: bool = True
    """Use min(decay, (1 + n) / (10 + n)) at step n, so that the start is soon forgotten."""

    def __post_init__(self) -> None:
        """Refuse a decay that forgets nothing."""
        _require(0 <= self.decay < 1, "ema.decay", self, "in [0, 1)")


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
    tokenizer: Path | None = None
    """Model directory whose `tokenizer/` is used; None takes that of `init`, or trains one on the
    captions."""
    levels: Literal["uniform", "stratified", "logit_normal", "edm_lognormal", "discrete"] = (
        "discrete"
    )
    """How noise levels are drawn."""
    weighting: Literal["uniform", "min_snr", "edm", "sigmoid"] = "uniform"
    """Factor on each example's squared error."""
    level_mean: float | None = None
    """Mean of logit_normal or edm_lognormal; None for the published one."""
    level_std: float | None = None
    """Standard deviation of logit_normal or edm_lognormal; None for the published one."""
    min_snr_gamma: float | None = None
    """Gamma of min_snr; None for 5."""
    sigmoid_bias: float | None = None
    """Bias of sigmoid, in log-SNR; None for 0."""

    def __post_init__(self) -> None:
        """Refuse options that the chosen levels or weighting would ignore."""
        for name, owner, choices in (
            ("level_mean", self.levels, ("logit_normal", "edm_lognormal")),
            ("level_std", self.levels, ("logit_normal", "edm_lognormal")),
            ("min_snr_gamma", self.weighting, ("min_snr",)),
            ("sigmoid_bias", self.weighting, ("sigmoid",)),
        ):
            if getattr(self, name) is not None and owner not in choices:
                raise UserError(
                    f"objective.{name} does nothing for {owner!r}; it belongs to "
                    f"{' and '.join(choices)}"
                )


@dataclass(frozen=True)
class PreviewConfig:
    """The grid of fixed prompts and seeds that is drawn while training, from the average."""

    every: int = 2000
    """Steps between grids; 0 draws none."""
    prompts: tuple[str, ...] = ()
    """Prompts, one column each."""
    rows: int = 2
    """Seeds 0 to rows - 1, one row each."""
    num_steps: int = 25
    """DDIM steps."""
    guidance_scale: float = 4.0
    """Classifier-free guidance."""

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        _require(self.every >= 0, "preview.every", self, "at least 0")
        _require(self.rows >= 1, "preview.rows", self, "at least 1")
        _require(self.num_steps >= 1, "preview.num_steps", self, "at least 1")


@dataclass(frozen=True)
class TrainConfig:
    """One training run. The same command again resumes it."""

    objective: AutoencoderObjective | DiffusionObjective
    """What is trained."""
    data: DataConfig
    """What it is trained on."""
    workdir: Path | None = None
    """Where checkpoints, metrics, pictures and config.json go; must be given."""
    export: Path | None = None
    """Write the averaged model as a model directory here when training ends."""
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
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What networks compute in; parameters, norms, losses and schedules stay float32."""
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
        for name in ("num_steps", "log_every", "checkpoint_every", "keep"):
            _require(getattr(self, name) >= 1, name, self, "at least 1")
        accumulate, batch = self.optimizer.accumulate, self.data.batch_size
        if batch % accumulate:
            raise UserError(
                f"optimizer.accumulate={accumulate} must divide data.batch_size={batch}"
            )
