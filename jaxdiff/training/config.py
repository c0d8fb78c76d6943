"""What a run is made of, as frozen dataclasses: the command line and `config.json` alike."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jaxdiff.convert.scheduler import NoiseConfig
from jaxdiff.data.pipeline import DataConfig
from jaxdiff.errors import UserError
from jaxdiff.models import AutoencoderConfig, TextEncoderConfig, UNetConfig


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


@dataclass(frozen=True)
class EMAConfig:
    """The moving average of the parameters, which is what is sampled from and exported."""

    decay: float = 0.9999
    """Largest decay; 0 keeps no history (the average is the parameters)."""
    warmup: bool = True
    """Use min(decay, (1 + n) / (10 + n)) at step n, so that the start is soon forgotten."""


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
    min_snr_gamma: float = 5.0
    """Gamma of min_snr."""


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
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        accumulate, batch = self.optimizer.accumulate, self.data.batch_size
        if accumulate < 1 or batch % accumulate:
            raise UserError(
                f"optimizer.accumulate={accumulate} must divide data.batch_size={batch}"
            )


# What may differ between a run and its continuation: where it goes and how long, not what it is.
FREE_FIELDS = {
    "workdir",
    "export",
    "name",
    "licence",
    "num_steps",
    "parallel",
    "preview",
    "log_every",
    "checkpoint_every",
    "keep",
}


def to_json(config: Any) -> Any:
    """A dataclass as plain JSON values; paths become strings, tuples lists."""
    if dataclasses.is_dataclass(config):
        values = {f.name: to_json(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"type": type(config).__name__, **values}
    if isinstance(config, Path):
        return str(config)
    if isinstance(config, (list, tuple)):
        return [to_json(value) for value in config]
    return config


def claim_workdir(config: TrainConfig) -> Path:
    """Create the work directory with its `config.json`, or check that it belongs to this run.

    Raises:
      UserError: no directory was given, it cannot be written, or its `config.json` differs from
        this run's in more than `FREE_FIELDS`; the message lists the fields.
    """
    if config.workdir is None:
        raise UserError("--workdir is missing; say where checkpoints and metrics shall go")
    ours = to_json(config)
    path = config.workdir / "config.json"
    try:
        config.workdir.mkdir(parents=True, exist_ok=True)
        if path.exists():
            theirs = json.loads(path.read_text())
            different = _differences(_fixed(theirs), _fixed(ours))
            if different:
                raise UserError(
                    f"{config.workdir} belongs to another config ({'; '.join(different[:4])}); "
                    "give the same options, or another --workdir"
                )
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(ours, indent=2) + "\n")
        temporary.replace(path)
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"cannot use --workdir {config.workdir}: {error}") from error
    return config.workdir


def _fixed(tree: dict) -> dict:
    return {name: value for name, value in tree.items() if name not in FREE_FIELDS}


def _differences(theirs: Any, ours: Any, name: str = "") -> list[str]:
    """Dotted names of the leaves that differ, with both values."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        names = sorted(theirs.keys() | ours.keys())
        return [
            line
            for key in names
            for line in _differences(
                theirs.get(key), ours.get(key), f"{name}.{key}" if name else key
            )
        ]
    return [] if theirs == ours else [f"{name}: {theirs!r} there, {ours!r} here"]
