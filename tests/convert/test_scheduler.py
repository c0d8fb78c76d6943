"""The noise of a model survives its `scheduler_config.json` and means what diffusers means."""

import inspect

import numpy as np
import pytest

from jaxdiff.convert.scheduler import (
    _EDM_CLASS,
    _FLOW_CLASS,
    _SPACINGS,
    _VP_CLASSES,
    NoiseConfig,
    from_scheduler_config,
    to_scheduler_config,
)
from jaxdiff.diffusion.grids import grid_times
from jaxdiff.errors import UserError

NOISES = {
    "emoji": NoiseConfig(),
    "sd1": NoiseConfig("scaled_linear", prediction="eps", spacing="leading", steps_offset=1),
    "sd2": NoiseConfig("scaled_linear", prediction="v", spacing="leading", steps_offset=1),
    "ddpm": NoiseConfig("linear", 1e-4, 0.02, prediction="x0", spacing="linspace"),
    "zero": NoiseConfig("scaled_linear", prediction="v", zero_terminal_snr=True),
    "flow": NoiseConfig("flow", prediction="flow", shift=3.0),
    "edm": NoiseConfig("ve", prediction="edm", sigma_max=14.6, sigma_data=1.0, spacing="karras"),
}


@pytest.mark.parametrize("name", NOISES)
def test_round_trip(name):
    assert from_scheduler_config(to_scheduler_config(NOISES[name])) == NOISES[name]


@pytest.mark.parametrize(
    "options",
    [
        dict(schedule="flow", zero_terminal_snr=True),
        dict(schedule="ve", shift=2.0),
        dict(schedule="flow", num_timesteps=500),
        dict(zero_terminal_snr=True, prediction="eps"),
        dict(num_timesteps=0),
        dict(beta_start=0.02, beta_end=0.01),
        dict(schedule="ve", sigma_min=2.0, sigma_max=1.0),
        dict(shift=0.0),
        dict(spacing="linear"),
    ],
)
def test_contradictions_are_refused(options):
    with pytest.raises(UserError):
        NoiseConfig(**options)


@pytest.mark.parametrize("prediction", ["eps", "edm"])
def test_what_has_no_scheduler_is_refused(prediction):
    with pytest.raises(UserError, match="no scheduler_config.json"):
        to_scheduler_config(NoiseConfig("flow", prediction=prediction))


def test_karras_schedules_are_the_default_grid():
    config = to_scheduler_config(NOISES["sd1"]) | {"use_karras_sigmas": True}
    assert from_scheduler_config(config).spacing == "karras"


@pytest.mark.parametrize("changes", [{}, {"use_karras_sigmas": True}])
def test_few_steps_start_at_the_last_level_whatever_the_file_says(changes):
    config = to_scheduler_config(NOISES["sd1"]) | {"_class_name": "LCMScheduler"} | changes
    assert config["timestep_spacing"] == "leading"
    assert from_scheduler_config(config).spacing == "trailing"


VP = to_scheduler_config(NOISES["sd1"])
FLOW = to_scheduler_config(NOISES["flow"])
EDM = to_scheduler_config(NOISES["edm"])


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (VP, {"clip_sample": True}),
        (VP, {"thresholding": True}),
        (VP, {"use_beta_sigmas": True}),
        (VP, {"interpolation_type": "log_linear"}),
        (VP, {"timestep_spacing": "linear"}),
        (VP, {"beta_end": "x"}),
        (VP, {"beta_end": 2.0}),
        (VP, {"num_train_timesteps": 0}),
        (VP, {"trained_betas": [0.1]}),
        (VP, {"novelty": 1}),
        (FLOW, {"num_train_timesteps": 500}),
        (FLOW, {"use_karras_sigmas": True}),
        (FLOW, {"use_dynamic_shifting": True}),
        (FLOW, {"flow_shift": -1}),
        (FLOW, {"prediction_type": "epsilon"}),
        (FLOW, {"prediction_type": None}),
        ({k: v for k, v in FLOW.items() if k != "prediction_type"}, {}),
        (FLOW, {"_class_name": "DDIMScheduler"}),
        (VP, {"prediction_type": "flow_prediction"}),
        (EDM, {"prediction_type": "v_prediction"}),
        (EDM, {"sigma_schedule": "exponential"}),
        (EDM, {"sigma_max": None, "sigma_min": 90.0}),
    ],
)
def test_options_that_are_not_implemented_are_refused(config, changes):
    with pytest.raises(UserError, match="scheduler.json") as caught:
        from_scheduler_config(config | changes, "scheduler.json")
    assert "\n" not in str(caught.value)


def test_a_flow_is_read_from_every_scheduler_that_walks_one():
    """FlowMatchEuler is one by its class, the solvers are if they are told so."""
    matched = {"_class_name": _FLOW_CLASS, "num_train_timesteps": 1000, "shift": 3.0}
    for config in (matched, FLOW, FLOW | {"_class_name": "UniPCMultistepScheduler"}):
        assert from_scheduler_config(config) == NOISES["flow"]


@pytest.mark.parametrize("changes", [{"set_alpha_to_one": False}, {"skip_prk_steps": True}])
def test_options_of_samplers_are_accepted(changes):
    assert from_scheduler_config(VP | changes) == NOISES["sd1"]


@pytest.mark.parity
@pytest.mark.parametrize("name", ["emoji", "sd1", "sd2", "ddpm", "zero"])
def test_alphas_are_those_of_diffusers(name):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_config(to_scheduler_config(NOISES[name]))
    alpha_bar = scheduler.alphas_cumprod.numpy().astype(np.float64)
    t = (np.arange(1000) + 1) / 1000
    process = NOISES[name].process()
    np.testing.assert_allclose(process.alpha(t) ** 2, alpha_bar, rtol=2e-5, atol=1e-9)
    np.testing.assert_allclose(process.timestep(t), np.arange(1000), atol=1e-9)


@pytest.mark.parity
def test_diffusers_walks_the_flow_that_is_written():
    """Its levels begin at 0.999 of the way, and its noise is as wide as ours."""
    from diffusers import DPMSolverMultistepScheduler

    theirs = DPMSolverMultistepScheduler.from_config(FLOW)
    theirs.set_timesteps(8)
    process = NOISES["flow"].process()
    t = grid_times(process, "trailing", 8)
    np.testing.assert_allclose(process.timestep(t)[:-1], theirs.timesteps, atol=2.1)
    np.testing.assert_allclose(process.sigma(t), theirs.sigmas, atol=2.1e-3)
    assert theirs.init_noise_sigma == 1


@pytest.mark.parity
@pytest.mark.parametrize("name", _VP_CLASSES)
def test_an_absent_spacing_is_that_of_diffusers(name):
    """Of the two classes that have no such option, or do not use it: the closest grid."""
    import diffusers

    theirs = getattr(diffusers, name)()
    spacing = from_scheduler_config({"_class_name": name}).spacing
    if name not in ("LCMScheduler", "DPMSolverSinglestepScheduler"):
        assert spacing == theirs.config.timestep_spacing
        return
    theirs.set_timesteps(4)
    levels = theirs.timesteps.numpy()
    process = NOISES["sd1"].process()
    ours = {kind: process.timestep(grid_times(process, kind, 4)[:-1]) for kind in _SPACINGS}
    off = {kind: np.abs(ours[kind] - levels).max() for kind in ours}
    assert spacing == min(off, key=off.get)
    assert ours[spacing][0] == pytest.approx(levels[0])
    assert levels[0] == 999


@pytest.mark.parity
def test_every_default_of_diffusers_is_accepted():
    """But for DDIM's and DDPM's own default of clipping, which no latent model keeps."""
    import diffusers

    for name in (*_VP_CLASSES, _FLOW_CLASS, _EDM_CLASS):
        options = inspect.signature(getattr(diffusers, name)).parameters
        config = {key: option.default for key, option in options.items()}
        if name in ("DDIMScheduler", "DDPMScheduler"):
            config["clip_sample"] = False
        from_scheduler_config(config | {"_class_name": name})
