"""The noise of a model: its process and prediction, and `scheduler_config.json` in and out."""

import typing
from dataclasses import dataclass
from typing import Any, Literal

from jaxdiff.convert import scheduler_options as options
from jaxdiff.convert.configs import require_implied
from jaxdiff.diffusion import prediction as predictions
from jaxdiff.diffusion import process as processes
from jaxdiff.diffusion.grids import GRIDS
from jaxdiff.errors import UserError, choose, typed_fields

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
_VP_CLASSES = tuple(options.VP_SPACINGS)
_FLOW_CLASS = "FlowMatchEulerDiscreteScheduler"
# The pipelines of Stable Diffusion cannot run that one; this one, told so, they can.
_FLOW_SOLVER = {
    "_class_name": "DPMSolverMultistepScheduler",
    "num_train_timesteps": 1000,
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "steps_offset": 1,  # unread, but the pipelines warn of another
}
_EDM_CLASS = "EDMEulerScheduler"


@dataclass(frozen=True)
class NoiseConfig:
    """Which noise a model was trained on and what it predicts."""

    schedule: Schedule = "cosine"
    """Forward process: linear, scaled_linear or cosine (discrete VP), flow, or ve (with EDM's
    levels, Karras et al. 2022)."""
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
        """Refuse numbers out of range, and what the schedule would ignore."""
        choose("noise.schedule", self.schedule, typing.get_args(Schedule))
        choose("noise.prediction", self.prediction, typing.get_args(PredictionName))
        choose("noise.spacing", self.spacing, GRIDS)
        if self.num_timesteps < 1:
            raise UserError(f"noise.num_timesteps must be at least 1, not {self.num_timesteps}")
        if self.steps_offset < 0:
            raise UserError(f"noise.steps_offset must be at least 0, not {self.steps_offset}")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise UserError(
                f"noise.beta_start {self.beta_start} and noise.beta_end {self.beta_end} must be "
                "between 0 and 1, the first no larger than the last"
            )
        if not 0 < self.sigma_min < self.sigma_max:
            raise UserError(
                f"noise.sigma_min {self.sigma_min} must be above 0 and below noise.sigma_max "
                f"{self.sigma_max}"
            )
        for name in ("shift", "sigma_data"):
            if getattr(self, name) <= 0:
                raise UserError(f"noise.{name} must be above 0, not {getattr(self, name)}")
        self._check_schedule()

    def _check_schedule(self) -> None:
        """Refuse options that contradict the schedule."""
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
        return {**_FLOW_SOLVER, "flow_shift": noise.shift}
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
      UserError: an unknown scheduler or name, a value out of range, or an option that is not
        implemented (see the tables of implied values).
    """
    name = config.get("_class_name", "")
    choose(f"scheduler class in {source}", name, (*_VP_CLASSES, _FLOW_CLASS, _EDM_CLASS))
    try:
        if name == _FLOW_CLASS:
            given = _fields(config, {"shift": "shift"}, (), options.FLOW_IMPLIED, source)
            return NoiseConfig("flow", prediction="flow", **given)
        if name == _EDM_CLASS:
            given = _fields(config, options.EDM_FIELDS, (), options.EDM_IMPLIED, source)
            return NoiseConfig("ve", prediction="edm", spacing="karras", **given)
        if config.get("use_flow_sigmas") and name in options.FLOW_SOLVERS:
            if config.get("prediction_type") != "flow_prediction":
                raise UserError("use_flow_sigmas goes with prediction_type 'flow_prediction' only")
            given = _fields(
                config,
                {"flow_shift": "shift"},
                options.FLOW_UNREAD,
                {**options.VP_IMPLIED, **options.FLOW_SIGMAS_IMPLIED},
                source,
            )
            return NoiseConfig("flow", prediction="flow", **given)
        given = _fields(config, options.VP_FIELDS, options.VP_NAMES, options.VP_IMPLIED, source)
        return NoiseConfig(
            schedule=_ours(_BETA_SCHEDULES, config.get("beta_schedule", "linear"), source),
            prediction=_ours(_PREDICTION_TYPES, config.get("prediction_type", "epsilon"), source),
            spacing=_spacing(config, source),
            **{"beta_start": 1e-4, "beta_end": 0.02, "steps_offset": 0, **given},
        )
    except UserError as error:
        told = source in str(error)
        raise error if told else UserError(f"{source}: {error}") from error


def _fields(
    config: dict[str, Any],
    fields: dict[str, str],
    names: tuple[str, ...],
    implied: dict[str, Any],
    source: str,
) -> dict[str, Any]:
    """The values for fields of `NoiseConfig`, once everything else is known to be implied."""
    for key, value in config.items():
        if not key.startswith("_") and key not in fields and key not in names:
            require_implied(key, value, implied, source)
    given = {ours: config[key] for key, ours in fields.items() if config.get(key) is not None}
    return typed_fields(NoiseConfig, given, source)


def _spacing(config: dict[str, Any], source: str) -> str:
    name = config["_class_name"]
    if name == options.FEW_STEPS_CLASS:  # it reads no option of spacing
        return options.VP_SPACINGS[name]
    spacing = config.get("timestep_spacing", options.VP_SPACINGS[name])
    choose(f"timestep_spacing in {source}", spacing, _SPACINGS)
    if config.get("use_karras_sigmas"):
        return "karras"
    return "exponential" if config.get("use_exponential_sigmas") else spacing


def _ours(table: dict[str, str], theirs: str, source: str) -> Any:
    """Our name for theirs."""
    choose(f"name in {source}", theirs, table.values())
    return next(name for name, other in table.items() if other == theirs)
