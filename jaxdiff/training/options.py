"""The parts of a run's config that every objective shares, as frozen dataclasses."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from jaxdiff.diffusion.samplers import SAMPLERS
from jaxdiff.errors import UserError, choose

EFFORTS = ("O0", "O1", "O2", "O3")
"""Of a compiler, from the fastest to compile to the fastest to run."""


def require(holds: bool, name: str, config: Any, range_: str) -> None:
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
    """Decoupled weight decay of matrices and kernels, a LoRA's too; norms, biases and embeddings
    have none."""
    text_encoder_rate: float = 1.0
    """Learning rate of text encoders that are trained beside a UNet, as a share of the UNet's."""
    clip_norm: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""
    accumulate: int = 1
    """Micro-batches that a step's batch is cut into, to save memory; the result is the same."""

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        require(self.learning_rate >= 0, "optimizer.learning_rate", self, "at least 0")
        require(self.warmup_steps >= 0, "optimizer.warmup_steps", self, "at least 0")
        require(0 <= self.b1 < 1, "optimizer.b1", self, "in [0, 1)")
        require(0 <= self.b2 < 1, "optimizer.b2", self, "in [0, 1)")
        require(self.weight_decay >= 0, "optimizer.weight_decay", self, "at least 0")
        rate = self.text_encoder_rate
        fine = math.isfinite(rate) and rate >= 0
        require(fine, "optimizer.text_encoder_rate", self, "a finite number, at least 0")
        require(self.clip_norm >= 0, "optimizer.clip_norm", self, "at least 0")
        require(self.accumulate >= 1, "optimizer.accumulate", self, "at least 1")


@dataclass(frozen=True)
class MeshConfig:
    """How many devices each axis of the mesh has; one of them may be -1 for all that are left."""

    data: int = -1
    """Parts of the batch whose devices each hold all parameters."""
    fsdp: int = 1
    """Parts of the batch whose devices share parameters, average and moments: less memory, more
    traffic."""
    tensor: int = 1
    """Devices that share every layer of the same rows; heads and channels should divide by it."""

    def __post_init__(self) -> None:
        """Refuse sizes that are none."""
        sizes = self.data, self.fsdp, self.tensor
        for name, size in zip(("data", "fsdp", "tensor"), sizes, strict=True):
            require(size >= 1 or size == -1, f"mesh.{name}", self, "at least 1, or -1")
        if sizes.count(-1) > 1:
            raise UserError("only one of mesh.data, mesh.fsdp and mesh.tensor can be -1")


@dataclass(frozen=True)
class EMAConfig:
    """The moving average of the parameters, which is what is sampled from and exported."""

    decay: float = 0.9999
    """Largest decay; 0 keeps no history (the average is the parameters)."""
    warmup: bool = True
    """Use min(decay, (1 + n) / (10 + n)) at step n, so that the start is soon forgotten."""

    def __post_init__(self) -> None:
        """Refuse a decay that forgets nothing."""
        require(0 <= self.decay < 1, "ema.decay", self, "in [0, 1)")


@dataclass(frozen=True)
class PreviewConfig:
    """The grid of fixed prompts and seeds that is drawn while training, from the average."""

    every: int = 2000
    """Steps between grids; 0 draws none."""
    prompts: tuple[str, ...] = ()
    """Prompts, one column each."""
    rows: int = 2
    """Seeds 0 to rows - 1, one row each."""
    sampler: str = "ddim"
    """A name of the samplers, as `sample.py` has them."""
    num_steps: int = 25
    """Steps of it."""
    guidance_scale: float = 4.0
    """Classifier-free guidance."""

    def __post_init__(self) -> None:
        """Refuse an unknown sampler and numbers out of range."""
        choose("sampler of previews", self.sampler, SAMPLERS)
        require(self.every >= 0, "preview.every", self, "at least 0")
        require(self.rows >= 1, "preview.rows", self, "at least 1")
        require(self.num_steps >= 1, "preview.num_steps", self, "at least 1")


@dataclass(frozen=True)
class LossConfig:
    """Which noise levels a diffusion loss is taken at, and how each counts."""

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
    noise_offset: float = 0.0
    """Scale of noise that is one number per channel of a latent, added to the usual noise: makes
    very dark and very bright pictures possible where the last level is not pure noise."""

    def __post_init__(self) -> None:
        """Refuse options that the chosen levels or weighting would ignore."""
        require(self.noise_offset >= 0, "objective.loss.noise_offset", self, "at least 0")
        for name, owner, choices in (
            ("level_mean", self.levels, ("logit_normal", "edm_lognormal")),
            ("level_std", self.levels, ("logit_normal", "edm_lognormal")),
            ("min_snr_gamma", self.weighting, ("min_snr",)),
            ("sigmoid_bias", self.weighting, ("sigmoid",)),
        ):
            if getattr(self, name) is not None and owner not in choices:
                raise UserError(
                    f"objective.loss.{name} does nothing for {owner!r}; it belongs to "
                    f"{' and '.join(choices)}"
                )
