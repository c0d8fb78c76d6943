"""The noise of a model: its process and prediction, and `scheduler_config.json` in and out."""

from dataclasses import dataclass
from typing import Any, Literal

from jaxdiff.diffusion import prediction as predictions
from jaxdiff.diffusion import process as processes
from jaxdiff.errors import UserError, choose

Schedule = Literal["linear", "scaled_linear", "cosine", "flow", "ve"]
PredictionName = Literal["eps", "x0", "v", "flow", "edm"]

# Our names and those of diffusers.
_BETA_SCHEDULES = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "cosine": "squaredcos_cap_v2",
}
_PREDICTION_TYPES = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
_SPACINGS = ("leading", "trailing", "linspace")

# Schedulers that describe the same discrete process; the sampler is the user's choice, not theirs.
_VP_CLASSES = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)
_FLOW_CLASS = "FlowMatchEulerDiscreteScheduler"
_EDM_CLASS = "EDMEulerScheduler"


@dataclass(frozen=True)
class NoiseConfig:
    """Which noise a model was trained on and what it predicts."""

    schedule: Schedule = "cosine"
    """Forward process: linear, scaled_linear or cosine (discrete VP), flow, or ve."""
    beta_start: float = 0.00085
    """First beta of linear and scaled_linear."""
    beta_end: float = 0.012
    """Last beta of linear and scaled_linear."""
    num_timesteps: int = 1000
    """Noise levels of a discrete schedule; what a flow multiplies t by."""
    prediction: PredictionName = "v"
    """What the network outputs: eps, x0, v, flow or edm."""
    zero_terminal_snr: bool = False
    """Rescale the betas so that the last level is pure noise (Lin et al. 2023)."""
    shift: float = 1.0
    """Factor on sigma / alpha, above 1 for more noise (simple diffusion, SD3)."""
    sigma_min: float = 0.002
    """Smallest sigma of ve."""
    sigma_max: float = 80.0
    """Largest sigma of ve."""
    sigma_data: float = 0.5
    """Standard deviation of the data, for prediction edm."""
    spacing: str = "trailing"
    """Grid that sampling uses unless told otherwise: leading, trailing, linspace, karras, ..."""
    steps_offset: int = 1
    """Added to the timesteps of the grid leading, as Stable Diffusion does."""

    def __post_init__(self) -> None:
        """Refuse what the schedule would ignore."""
        discrete = self.schedule in _BETA_SCHEDULES
        if self.zero_terminal_snr and not discrete:
            raise UserError(f"zero_terminal_snr does nothing for schedule {self.schedule!r}")
        if self.schedule == "ve" and self.shift != 1:
            raise UserError("shift does nothing for schedule 've'; change sigma_max instead")
        if self.schedule == "flow" and self.num_timesteps != 1000:
            raise UserError("schedule 'flow' has num_timesteps 1000")
        if self.zero_terminal_snr and self.prediction == "eps":
            raise UserError("zero_terminal_snr with prediction 'eps' says nothing of x0; use 'v'")

    def process(self) -> processes.Process:
        """The forward process."""
        if self.schedule == "flow":
            return processes.flow(self.shift)
        if self.schedule == "ve":
            return processes.edm(self.sigma_min, self.sigma_max)
        if self.schedule == "cosine":
            betas = processes.betas_cosine(self.num_timesteps)
        else:
            make = {"linear": processes.betas_linear}.get(
                self.schedule, processes.betas_scaled_linear
            )
            betas = make(self.num_timesteps, self.beta_start, self.beta_end)
        if self.zero_terminal_snr:
            betas = processes.zero_terminal_snr(betas)
        return processes.vp(betas, self.shift)

    def prediction_row(self) -> predictions.Prediction:
        """The row of the prediction table."""
        if self.prediction == "edm":
            return predictions.edm(self.sigma_data)
        return predictions.get_prediction(self.prediction)


def to_scheduler_config(noise: NoiseConfig) -> dict[str, Any]:
    """A diffusers `scheduler_config.json` for this noise.

    Raises:
      UserError: no scheduler of diffusers describes it.
    """
    if noise.schedule == "flow" and noise.prediction == "flow":
        return {"_class_name": _FLOW_CLASS, "num_train_timesteps": 1000, "shift": noise.shift}
    if noise.schedule == "ve" and noise.prediction == "edm":
        return {
            "_class_name": _EDM_CLASS,
            "num_train_timesteps": noise.num_timesteps,
            "prediction_type": "epsilon",
            "sigma_data": noise.sigma_data,
            "sigma_max": noise.sigma_max,
            "sigma_min": noise.sigma_min,
            "sigma_schedule": "karras",
        }
    known = noise.schedule in _BETA_SCHEDULES and noise.prediction in _PREDICTION_TYPES
    if not known or noise.shift != 1:
        raise UserError(
            f"schedule {noise.schedule!r} with prediction {noise.prediction!r} and shift "
            f"{noise.shift} has no scheduler_config.json; discrete schedules go with eps, x0 or v "
            "and shift 1, flow with flow, ve with edm"
        )
    return {
        "_class_name": "DDIMScheduler",
        "beta_end": noise.beta_end,
        "beta_schedule": _BETA_SCHEDULES[noise.schedule],
        "beta_start": noise.beta_start,
        "clip_sample": False,
        "num_train_timesteps": noise.num_timesteps,
        "prediction_type": _PREDICTION_TYPES[noise.prediction],
        "rescale_betas_zero_snr": noise.zero_terminal_snr,
        "set_alpha_to_one": True,
        "steps_offset": noise.steps_offset,
        "timestep_spacing": noise.spacing if noise.spacing in _SPACINGS else "trailing",
    }


def from_scheduler_config(config: dict[str, Any], source: str = "scheduler") -> NoiseConfig:
    """The noise that a diffusers `scheduler_config.json` describes.

    Args:
      config: its content.
      source: its path, for messages.

    Raises:
      UserError: an unknown scheduler, beta schedule or prediction type, or trained betas.
    """
    name = config.get("_class_name", "")
    choose(f"scheduler class in {source}", name, (*_VP_CLASSES, _FLOW_CLASS, _EDM_CLASS))
    if name == _FLOW_CLASS:
        if config.get("use_dynamic_shifting"):
            raise UserError(f"{source}: use_dynamic_shifting is not supported")
        return NoiseConfig("flow", prediction="flow", shift=config.get("shift", 1.0))
    if name == _EDM_CLASS:
        sigmas = {k: config[k] for k in ("sigma_min", "sigma_max", "sigma_data") if k in config}
        return NoiseConfig("ve", prediction="edm", spacing="karras", **sigmas)
    if config.get("trained_betas") is not None:
        raise UserError(f"{source}: trained_betas are not supported")
    return NoiseConfig(
        schedule=_ours(_BETA_SCHEDULES, config.get("beta_schedule", "linear"), source),
        beta_start=config.get("beta_start", 1e-4),
        beta_end=config.get("beta_end", 0.02),
        num_timesteps=config.get("num_train_timesteps", 1000),
        prediction=_ours(_PREDICTION_TYPES, config.get("prediction_type", "epsilon"), source),
        zero_terminal_snr=config.get("rescale_betas_zero_snr", False),
        spacing=_spacing(config),
        steps_offset=config.get("steps_offset", 0),
    )


def _spacing(config: dict[str, Any]) -> str:
    if config.get("use_karras_sigmas"):
        return "karras"
    if config.get("use_exponential_sigmas"):
        return "exponential"
    return config.get("timestep_spacing", "leading")


def _ours(table: dict[str, str], theirs: str, source: str) -> Any:
    """Our name for theirs."""
    choose(f"name in {source}", theirs, table.values())
    return next(name for name, other in table.items() if other == theirs)
