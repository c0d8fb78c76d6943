"""Each sampler against the scheduler of diffusers, on the same denoiser and levels."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.diffusion import grids as G
from jaxdiff.diffusion import samplers as S
from jaxdiff.rng import fold_each, image_keys, normal_each

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # torch with numpy 2
]

N = 1000
SHAPE = (2, 2, 1)
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SIGMA_SPACE = ("EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "KDPM2Discrete", "LMSDiscrete")  # noqa: E501 # fmt: skip

DDIM = {"clip_sample": False, "set_alpha_to_one": True}
CASES = {
    "ddim": ("DDIM", DDIM, "trailing", 1e-4),
    "ddim-leading": ("DDIM", {**DDIM, "steps_offset": 1}, "leading", 1e-4),
    "ddim-zero_snr": ("DDIM", {**DDIM, "rescale_betas_zero_snr": True}, "trailing", 1e-4),
    "euler": ("EulerDiscrete", {}, "trailing", 1e-4),
    "euler-karras": ("EulerDiscrete", {"use_karras_sigmas": True}, "karras", 1e-4),
    "heun": ("HeunDiscrete", {}, "trailing", 1e-4),
    "heun-karras": ("HeunDiscrete", {"use_karras_sigmas": True}, "karras", 1e-4),
    "dpm_2": ("KDPM2Discrete", {}, "trailing", 1e-4),
    "lms": ("LMSDiscrete", {}, "trailing", 1e-4),
    "lms-karras": ("LMSDiscrete", {"use_karras_sigmas": True}, "karras", 1e-4),
    "dpmpp_2m": ("DPMSolverMultistep", {}, "trailing", 1e-4),
    "dpmpp_2m-exponential": (
        "DPMSolverMultistep",
        {"use_exponential_sigmas": True},
        "exponential",
        1e-4,
    ),
    "dpmpp_2m-karras": ("DPMSolverMultistep", {"use_karras_sigmas": True}, "karras", 1e-4),
    "unipc": ("UniPCMultistep", {"solver_type": "bh2"}, "trailing", 1e-4),
    "unipc-karras": (
        "UniPCMultistep",
        {"solver_type": "bh2", "use_karras_sigmas": True},
        "karras",
        1e-4,
    ),
}


@pytest.fixture
def model(posterior_mean, make_process):
    """eps(x, timestep) of the mixture for torch tensors, on their levels (k + 1) / N."""
    torch = pytest.importorskip("torch")

    def make(process):
        def eps(x, timestep):
            t = (np.asarray(timestep, np.float64) + 1) / N
            alpha, sigma = process.alpha(t), process.sigma(t)
            value = x.numpy().astype(np.float64)
            x0 = posterior_mean["mixture"](np, value, alpha, sigma)
            return torch.from_numpy((value - alpha * x0) / sigma)

        return eps

    return make


def _theirs(scheduler, eps, x, steps, in_sigma, times=None):
    """Their loop; x and the result are in our variables, where alpha^2 + sigma^2 = 1.

    `times` are shown to the model where their scheduler shows it whole numbers only.
    """
    import torch

    scheduler.set_timesteps(steps)
    value = torch.from_numpy(np.asarray(x, np.float64))
    if in_sigma:
        value = value * float((scheduler.sigmas[0] ** 2 + 1) ** 0.5)
    for i, t in enumerate(scheduler.timesteps):
        seen = t if times is None else times[i]
        out = eps(scheduler.scale_model_input(value, t).to(torch.float64), seen)
        value = scheduler.step(out, t, value).prev_sample.to(torch.float64)
    return value.numpy()


def _ours(denoise, sampler, grid, x, keys):
    return jax.jit(lambda grid, x, keys: S.sample(denoise, sampler, grid, x, keys))(grid, x, keys)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("steps", [10, 25])
def test_deterministic_samplers(case, steps, model, make_process, make_denoise):
    diffusers = pytest.importorskip("diffusers")
    name, options, kind, tolerance = CASES[case]
    spacing = {} if kind in ("karras", "exponential") else {"timestep_spacing": kind}
    scheduler = getattr(diffusers, name + "Scheduler")(**BETAS, **spacing, **options)
    zero_snr = options.get("rescale_betas_zero_snr", False)
    process = make_process("zero_snr" if zero_snr else "scaled_linear")
    eps = model(process)
    if zero_snr:  # eps says nothing of x0 at alpha = 0: theirs is given v, from the same x0
        scheduler.register_to_config(prediction_type="v_prediction")
        eps = _as_v(model, process)
    grid = G.make_grid(process, kind, steps, steps_offset=options.get("steps_offset", 0))
    keys = image_keys(range(5))
    x = normal_each(keys, SHAPE)
    ours = _ours(make_denoise(process, "mixture"), S.make_sampler(case.split("-")[0]), grid, x, keys)  # noqa: E501 # fmt: skip
    whole = name.endswith("Multistep") and kind != "trailing"
    times = process.timestep(G.grid_times(process, kind, steps)) if whole else None
    theirs = _theirs(scheduler, eps, x, steps, name in SIGMA_SPACE, times)
    np.testing.assert_allclose(ours, theirs, atol=tolerance)


def _as_v(model, process):
    import torch

    def v(x, timestep):
        t = (np.asarray(timestep, np.float64) + 1) / N
        alpha, sigma = process.alpha(t), process.sigma(t)
        e = model(process)(x, timestep).numpy()
        x0 = (x.numpy() - sigma * e) / alpha if alpha > 0 else np.zeros_like(e)
        return torch.from_numpy(alpha * e - sigma * x0)

    return v


@pytest.mark.parametrize(
    ("ours_name", "name", "options"),
    [
        ("dpmpp_2m_sde", "DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}),
        ("euler_a", "EulerAncestralDiscrete", {}),
        ("ddpm", "EulerAncestralDiscrete", {}),
    ],
)
def test_stochastic_samplers_on_the_same_noise(
    ours_name, name, options, model, make_process, make_denoise, monkeypatch
):
    diffusers = pytest.importorskip("diffusers")
    torch = pytest.importorskip("torch")
    scheduler = getattr(diffusers, name + "Scheduler")(
        **BETAS, **options, timestep_spacing="trailing"
    )
    process, keys, steps = make_process("scaled_linear"), image_keys(range(5)), 20
    x = normal_each(keys, SHAPE)
    noises = [np.asarray(normal_each(fold_each(keys, i), SHAPE), np.float64) for i in range(steps)]
    queue = iter(noises)
    module = inspect.getmodule(type(scheduler))
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: torch.from_numpy(next(queue)))
    grid = G.make_grid(process, "trailing", steps)
    ours = _ours(make_denoise(process, "mixture"), S.make_sampler(ours_name), grid, x, keys)
    theirs = _theirs(scheduler, model(process), x, steps, name in SIGMA_SPACE)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_ddim_with_eta_on_the_same_noise(model, make_process, make_denoise):
    diffusers = pytest.importorskip("diffusers")
    torch = pytest.importorskip("torch")
    scheduler = diffusers.DDIMScheduler(**BETAS, **DDIM, timestep_spacing="trailing")
    process, keys, steps = make_process("scaled_linear"), image_keys(range(5)), 20
    scheduler.set_timesteps(steps)
    x = normal_each(keys, SHAPE)
    value, eps = torch.from_numpy(np.array(x, np.float64)), model(process)
    for i, t in enumerate(scheduler.timesteps):
        noise = torch.from_numpy(np.array(normal_each(fold_each(keys, i), SHAPE), np.float64))
        out = eps(value, t)
        value = scheduler.step(out, t, value, eta=0.6, variance_noise=noise).prev_sample
    grid = G.make_grid(process, "trailing", steps)
    ours = _ours(make_denoise(process, "mixture"), S.ddim(0.6), grid, x, keys)
    np.testing.assert_allclose(ours, value.numpy(), atol=1e-4)


def test_euler_on_rectified_flow(make_denoise, make_process, posterior_mean):
    diffusers = pytest.importorskip("diffusers")
    torch = pytest.importorskip("torch")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(12)
    process, keys = make_process("flow"), image_keys(range(5))
    x = normal_each(keys, SHAPE)
    value = torch.from_numpy(np.array(x, np.float64))
    for t in scheduler.timesteps:
        s = float(t) / N
        x0 = posterior_mean["mixture"](np, value.numpy(), 1 - s, s)
        velocity = (value.numpy() - x0) / s
        value = scheduler.step(torch.from_numpy(velocity), t, value).prev_sample
    grid = G.make_grid(process, "linspace", 12)
    ours = _ours(make_denoise(process, "mixture"), S.euler(), grid, jnp.asarray(x), keys)
    np.testing.assert_allclose(ours, value.numpy(), atol=1e-4)
