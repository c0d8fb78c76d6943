"""The options of diffusers' schedulers: which are read, which implied, and which of no consequence.

VP is every scheduler of a discrete variance-preserving process; what no table names is refused.
"""

from jaxdiff.convert.configs import ANY

FEW_STEPS_CLASS = "LCMScheduler"
# Every scheduler of a discrete process, and the grid that it visits where its file names none.
# Two have grids of their own, which `trailing` comes closest to: it starts at the last level, too,
# and for 4 steps of 1000 visits 999 749 499 249. LCM, whatever its file says, takes every n-th of
# the 50 levels that it was distilled on: 999 759 499 259. DPMSolverSinglestep: 999 749 500 250.
VP_SPACINGS = {
    "DDIMScheduler": "leading",
    "DDPMScheduler": "leading",
    "DEISMultistepScheduler": "linspace",
    "DPMSolverMultistepScheduler": "linspace",
    "DPMSolverSinglestepScheduler": "trailing",
    "EulerAncestralDiscreteScheduler": "linspace",
    "EulerDiscreteScheduler": "linspace",
    "HeunDiscreteScheduler": "linspace",
    "KDPM2AncestralDiscreteScheduler": "linspace",
    "KDPM2DiscreteScheduler": "linspace",
    FEW_STEPS_CLASS: "trailing",
    "LMSDiscreteScheduler": "linspace",
    "PNDMScheduler": "leading",
    "UniPCMultistepScheduler": "linspace",
}
# Options besides those of `NoiseConfig`: the value implemented here, or ANY where the option says
# how a sampler is to go about it, which is the user's choice and not the model's.
VP_IMPLIED = {
    "algorithm_type": ANY,
    "clip_sample": False,
    "clip_sample_range": ANY,  # for clip_sample, as are the next two for thresholding
    "dynamic_thresholding_ratio": ANY,
    "sample_max_value": ANY,
    "disable_corrector": ANY,
    "euler_at_final": ANY,
    "final_sigmas_type": "zero",
    "flow_shift": ANY,  # for use_flow_sigmas
    "interpolation_type": "linear",
    "lambda_min_clipped": ANY,
    "lower_order_final": ANY,
    "original_inference_steps": ANY,
    "predict_x0": ANY,
    # False (Stable Diffusion 1.x) ends the last step of DDIM and PNDM at the first level, a sigma
    # of 0.03, instead of 0. Every grid here ends at 0: a slightly cleaner picture, and no other
    # scheduler of diffusers has the option.
    "set_alpha_to_one": ANY,
    "skip_prk_steps": ANY,
    "solver_order": ANY,
    "solver_p": ANY,
    "solver_type": ANY,
    "time_shift_type": ANY,  # for use_dynamic_shifting
    "timestep_scaling": ANY,
    "timestep_type": "discrete",
    "variance_type": ANY,
}
FLOW_IMPLIED = {
    "base_image_seq_len": ANY,  # these and the others for use_dynamic_shifting
    "base_shift": ANY,
    "max_image_seq_len": ANY,
    "max_shift": ANY,
    "num_train_timesteps": 1000,
    "time_shift_type": ANY,
}
FLOW_SOLVERS = (
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
)
# Of a scheduler of a discrete process that is told to walk a flow (`use_flow_sigmas`).
FLOW_SIGMAS_IMPLIED = {
    "num_train_timesteps": 1000,
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
}
FLOW_UNREAD = ("beta_end", "beta_schedule", "beta_start", "steps_offset", "timestep_spacing")
EDM_IMPLIED = {
    "final_sigmas_type": "zero",
    "prediction_type": "epsilon",  # so it calls what EDM's preconditioning makes of a network
    "rho": 7.0,
    "sigma_schedule": "karras",
}
# Keys of the file that are a field of `NoiseConfig`, and that field.
VP_FIELDS = {
    "beta_start": "beta_start",
    "beta_end": "beta_end",
    "num_train_timesteps": "num_timesteps",
    "rescale_betas_zero_snr": "zero_terminal_snr",
    "steps_offset": "steps_offset",
}
VP_NAMES = (
    "beta_schedule",
    "prediction_type",
    "timestep_spacing",
    "use_exponential_sigmas",
    "use_karras_sigmas",
)
EDM_FIELDS = {
    "num_train_timesteps": "num_timesteps",
    "sigma_data": "sigma_data",
    "sigma_max": "sigma_max",
    "sigma_min": "sigma_min",
}
